"""Expanding a labelled data set, and the changes that classifiers are trained with."""

import math
from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from imagen_nodes.augmentation.settings import Settings, Share
from imagen_nodes.folders import contents
from imagen_nodes.graph.host import Host
from imagen_nodes.graph.node import Node
from imagen_nodes.graph.sockets import Image, Model, Seed, Ui, Widget


class Images(NamedTuple):
    image: Image


class Augmented(NamedTuple):
    folder: str
    image: Image
    ui: Ui


class Source(Node):
    """What is expanded, and by what."""

    model: Model
    """Generator with classes."""
    data: str
    """Folder or archive in the input folder: pictures in a subfolder for each class. ``name
    [output]`` lies in the output folder."""


class AugmentDataset(Settings, Source):
    """Expand a labelled folder of pictures with those that a generator with classes draws.

    Of what it draws for each class the best are kept: by the discriminator where one is given, else
    by how much they lie among the real pictures of the class. Copies of real pictures and
    duplicates are dropped. Changed copies of the real pictures can be added.

    The new folder has a subfolder for each class, as torchvision's ImageFolder reads them, and
    manifest.jsonl, which tells of each picture where it comes from. It is numbered on from the
    highest number there is: PREFIX_00001.
    """

    id = "ImagenAugmentDataset"
    title = "Augment Dataset"
    category = "Imagen/data"
    is_output = True

    folder_prefix: str = "augmented/imagen"
    """Start of the folder's name, in the output folder, with folders above it if you like."""
    discriminator: Model | None = None
    """Judges the generated pictures; best the one that the generator was trained with."""

    @classmethod
    def fingerprint(cls, host, values):
        """What changes when a picture of the data does."""
        return contents(host.data(values["data"])) if "data" in values else math.nan

    def run(self, host: Host) -> Augmented:
        from imagen_nodes.augmentation import expand
        from imagen_nodes.graph.builtin.files import numbered_folder

        data = host.data(self.data)
        with numbered_folder(host.save_folder("output"), self.folder_prefix) as out:
            report = expand.augment(host, self.model, data, out, self, self.discriminator)
        return Augmented(str(out), report.preview, {"text": [str(report), *report.notes]})


class Change(Node):
    """What is changed at random."""

    image: Image
    """Pictures; with alpha, if they have it."""
    seed: Seed = 0
    """Of the first picture; picture i of the batch depends on seed + i alone."""

    def each(self, host: Host, change: Callable[[Image, int], Image]) -> Images:
        from imagen_nodes.augmentation import transforms

        return Images(transforms.each(host, self.image, self.seed, change))


class RandomFlip(Change):
    """Mirror pictures left to right, each with a probability."""

    id = "ImagenRandomFlip"
    title = "Random Flip"
    category = "Imagen/data"

    probability: Share = 0.5
    """Of each picture to be mirrored."""

    def run(self, host: Host) -> Images:
        from imagen_nodes.augmentation import transforms

        return self.each(host, lambda x, seed: transforms.random_flip(x, seed, self.probability))


class RandomCrop(Change):
    """Enlarge a window at a random place to the whole picture, for each picture another one."""

    id = "ImagenRandomCrop"
    title = "Random Crop"
    category = "Imagen/data"

    crop: Annotated[float, Field(ge=0, le=0.9), Widget(step=0.05)] = 0.1
    """The window has at least 1 - crop of the sides; 0 changes nothing."""

    def run(self, host: Host) -> Images:
        from imagen_nodes.augmentation import transforms

        return self.each(host, lambda x, seed: transforms.random_crop(x, seed, self.crop))


class RandomColour(Change):
    """Change brightness, saturation and contrast of pictures, of each by other amounts."""

    id = "ImagenRandomColour"
    title = "Random Colour"
    category = "Imagen/data"

    strength: Share = 0.2
    """How much: brightness moves by up to this share of half the range, saturation and contrast are
    multiplied by 1 less this to 1 more; 0 changes nothing."""

    def run(self, host: Host) -> Images:
        from imagen_nodes.augmentation import transforms

        return self.each(host, lambda x, seed: transforms.random_colour(x, seed, self.strength))


class Cutout(Change):
    """Paint a grey box over pictures, at another place in each; it may stick out."""

    id = "ImagenCutout"
    title = "Cutout"
    category = "Imagen/data"

    size: Share = 0.5
    """Sides of the box, as a share of the picture's; 0 changes nothing."""

    def run(self, host: Host) -> Images:
        from imagen_nodes.augmentation import transforms

        return self.each(host, lambda x, seed: transforms.cutout(x, seed, self.size))
