"""Drawing and changing latents."""

import math
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from imagen_nodes.folders import contents
from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Added, Choices, Latent, Model, Seed, Ui, Widget


class Sampled(NamedTuple):
    latent: Latent


class SampleNoise(Node):
    """Draw latent vectors z ~ N(0, I) for a generator.

    A seed means the same latent as in the StyleGAN tools. Image i of the batch is that of
    seed + i, whatever the batch size: to see more of a series, raise the count; to draw one image
    of it again, use its own seed with a count of 1. For a generator with classes, the classes take
    turns; Class Labels sets others.
    """

    id = "ImagenSampleNoise"
    title = "Sample Noise"
    category = "Imagen/latents"

    model: Model
    """Generator to draw for."""
    seed: Seed = 0
    """Of the first image; image i depends on seed + i alone."""
    count: Annotated[int, Field(ge=1, le=4096)] = 1
    """Number of latents."""
    truncation: Annotated[float, Field(ge=0, le=10), Widget(step=0.05), Added()] = 0.0
    """Values beyond this are drawn again: likelier images, less varied; BigGAN: 0.5 to 1; 0: none.
    For generators with styles, use Truncate instead."""

    def run(self, host: Host) -> Sampled:
        from imagen_nodes import generation

        return Sampled(generation.sample(self.model, self.seed, self.count, self.truncation))


class ClassLabels(Node):
    """Say which classes latents are to be drawn as.

    Latents keep their z, so the same seed can be seen as a cat, a ship and a truck.
    """

    id = "ImagenClassLabels"
    title = "Class Labels"
    category = "Imagen/latents"

    model: Model
    """Generator with classes."""
    latent: Latent
    """Latents z."""
    classes: str = "all"
    """Names or numbers with commas between, ranges of numbers (3-7), or all."""
    arrange: Literal["in turns", "every"] = "in turns"
    """in turns: the first latent of the first class, the second of the second, ...; every: each
    latent of each class, a row of a sheet for each latent."""

    def run(self, host: Host) -> Sampled:
        from imagen_nodes import generation

        return Sampled(
            generation.label(self.model, self.latent, self.classes, self.arrange == "every")
        )


class InterpolateLatents(Node):
    """Go from each latent to the next in equal steps, for a walk or a morph.

    With Save Animated WEBP the images make a film.
    """

    id = "ImagenInterpolateLatents"
    title = "Interpolate Latents"
    category = "Imagen/latents"

    latent: Latent
    """Two latents or more."""
    frames: Annotated[int, Field(ge=1, le=1000)] = 24
    """Steps from each latent to the next."""
    way: Literal["spherical", "linear"] = "spherical"
    """spherical for z, which lies near a sphere; linear for w."""
    loop: bool = True
    """Go back from the last to the first, so that a film can be repeated."""

    def run(self, host: Host) -> Sampled:
        from imagen_nodes import latents

        return Sampled(latents.interpolate(self.latent, self.frames, self.way, self.loop))


class SavedLatents(NamedTuple):
    latent: Latent
    ui: Ui


class SaveLatents(Node):
    """Save latents as a safetensors file in the output folder, to be loaded again or edited.

    Files are numbered on from the highest number there is: PREFIX_00001_.safetensors.
    """

    id = "ImagenSaveLatents"
    title = "Save Latents"
    category = "Imagen/latents"
    is_output = True

    latent: Latent
    """Latents to save, z or w, with their classes."""
    filename_prefix: str = "latents/imagen"
    """Start of the file name, with subfolders if you like. %year%, %month%, %day%, %hour%, %minute%
    and %second% are filled in."""

    def run(self, host: Host) -> SavedLatents:
        from imagen_nodes import latents
        from imagen_nodes.graph.builtin.files import target, write_next

        folder, subfolder, name = target(host.save_folder("output"), self.filename_prefix)
        content = latents.to_bytes(self.latent)
        file = write_next(folder, name, ".safetensors", lambda out: out.write(content))
        shown = {"filename": file, "subfolder": subfolder, "type": "output"}
        return SavedLatents(self.latent, {"latents": [shown]})


class LoadLatents(Node):
    """Load latents that Save Latents wrote, or those of a picture.

    A PNG that Save Image wrote carries the latents of the Generate nodes that ran before it, those
    of the whole batch, unless they take more than 256 KiB, compressed. In ComfyUI it does not where
    Generate had nothing to do, because its result was still there from the last run.
    """

    id = "ImagenLoadLatents"
    title = "Load Latents"
    category = "Imagen/latents"

    name: Annotated[str, Choices("latents")]
    """File or PNG in the input folder; ``name [output]`` lies in the output folder."""
    number: Annotated[int, Field(ge=0, le=1_000_000), Added()] = 0
    """Only this one of them, counted from 1; 0: all."""
    node: Annotated[str, Added()] = ""
    """Id of the Generate node that is meant, where a picture carries the latents of several."""

    @classmethod
    def fingerprint(cls, host, values):
        """What changes when another file takes its place."""
        return contents(host.latents(values["name"])) if "name" in values else math.nan

    def run(self, host: Host) -> Sampled:
        from imagen_nodes import latents

        found = latents.load(host.latents(self.name), self.node.strip())
        return Sampled(latents.pick(found, self.number) if self.number else found)
