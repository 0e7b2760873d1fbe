"""A recipe: a task with its numbers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from ..spec import Positive, Spec, by_kind
from .schedule import Number, Schedule, value_at
from .tasks.generate import Generate
from .tasks.inpaint import Inpaint
from .tasks.restore import Restore
from .tasks.style import Style
from .tasks.translate import Translate
from .tasks.unpaired import Contrast, Cycle

Decay = Annotated[float, Field(ge=0, lt=1)]


AnyTask = Annotated[
    Annotated[Generate, Tag("generate")]
    | Annotated[Restore, Tag("restore")]
    | Annotated[Inpaint, Tag("inpaint")]
    | Annotated[Style, Tag("style")]
    | Annotated[Translate, Tag("translate")]
    | Annotated[Contrast, Tag("cut")]
    | Annotated[Cycle, Tag("cyclegan")],
    by_kind("generate"),
]


class Adam(Spec):
    """Kingma & Ba, "Adam", 2015. One for each network."""

    lr: Number = 2e-4
    """Learning rate; a number or a schedule."""
    rates: dict[str, Number] = Field(default_factory=dict[str, Number])
    """Learning rates of networks, by name, that have another (Heusel et al., "GANs Trained by a Two
    Time-Scale Update Rule", 2017)."""
    betas: tuple[Decay | Schedule, Decay | Schedule] = (0.5, 0.999)
    """Decay of the first and second moment; numbers or schedules."""
    eps: Positive = 1e-8
    """Added to the denominator."""

    @model_validator(mode="after")
    def _betas_decay(self) -> Self:
        for beta in self.betas:
            if isinstance(beta, Schedule) and max(beta.start, beta.end) >= 1:
                raise ValueError("betas: a beta stays below 1")
        return self

    def rate(self, network: str, nimg: int) -> float:
        """The learning rate of a network after ``nimg`` images."""
        return value_at(self.rates.get(network, self.lr), nimg)

    def betas_at(self, nimg: int) -> tuple[float, float]:
        """The betas after ``nimg`` images."""
        return value_at(self.betas[0], nimg), value_at(self.betas[1], nimg)


class Recipe(Spec):
    """Everything that decides a training's result, but the data."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
    """Names the run and its weights."""
    task: AnyTask = Generate()
    """Networks and losses."""
    kimg: Positive = 1000
    """Length of the training, thousands of images shown to the discriminator."""
    begin_with: str | None = None
    """Weights to begin with in place of random ones, of the network that is shipped: a file, or the
    name of some in ``weights``, or that ship; none: null."""
    batch: Annotated[int, Field(ge=2, le=65536)] = 64
    """Images a step."""
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1
    """Parts in which a process computes its batch, one after another, to need less memory. The
    step is the same, but for what compares images, what moves with each pass and what is a mean
    over masked pixels: batch norm and minibatch standard deviation see one part at a time, spectral
    norm looks for the largest singular value once a part, and inpainting's losses are means of the
    parts'."""
    optimiser: Adam = Adam()
    """The same for every network."""
    flip: bool = True
    """Mirror every other image, at random."""
    crop: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of the sides that a random window may cut off, before it is enlarged; 0: none."""
    colour: Annotated[float, Field(ge=0, le=1)] = 0
    """Strength of random changes of brightness, saturation and contrast; 0: none."""
    held_out: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    """Share of the images, at most 1,000, that are not trained on, to tell whether the
    discriminator knows the others by heart, and to measure on what tasks of pictures make; none of
    a set of fewer than 200, and of pictures in tiles whole ones."""
    ema_half_life: Number | tuple[Number, ...] = 50
    """Of the averaged generator, kimg; never longer than 5% of the images seen. Several: an average
    each, the first of which draws the samples."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides every random number."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward passes; auto: whichever a probe at the start finds faster."""
    compile: Literal["no", "yes", "graphs"] = "no"
    """Compile the networks with torch.compile when the training starts, which takes a minute or so
    and a C++ compiler; graphs: and replay them as CUDA graphs, for small networks on a GPU."""
    on_divergence: Literal["stop", "halve"] = "stop"
    """After a loss or weight that is not finite the run goes back to its last state, and stops; or
    goes on at half the learning rates."""
    log_kimg: Positive = 1
    """Distance of log lines, kimg."""
    sample_kimg: Positive = 25
    """Distance of sample grids, plots and examinations, kimg."""
    snapshot_kimg: Positive = 50
    """Distance of snapshots and training states, kimg."""
    metric_kimg: Positive | None = None
    """Distance of measurements (FD-MobileNetV2 and its companions; where pictures are restored,
    PSNR and LPIPS), kimg; none: null."""
    metric_samples: Annotated[int, Field(ge=4, le=1_000_000)] = 5000
    """Images to draw for a measurement."""
    metric_reference: Annotated[int, Field(ge=4)] = 10_000
    """Real images to compare with, at most as many as there are."""
    patience_kimg: Positive | None = None
    """Stop once so many images have brought no better network, by the first figure; never: null."""

    @model_validator(mode="after")
    def _compiled_networks_stay(self) -> Self:
        if self.compile != "no" and self.task.grows:
            raise ValueError(
                "compile: networks that grow would be compiled anew at every step; set it to no, "
                "or leave out task.growth"
            )
        return self

    @model_validator(mode="after")
    def _patience_has_a_metric(self) -> Self:
        if self.patience_kimg is not None and self.metric_kimg is None:
            raise ValueError("patience_kimg: needs measurements to go by: set metric_kimg")
        return self

    @property
    def settled(self) -> int:
        """A moment from which on every step is a whole one, images."""
        return -(-self.task.settled // self.batch) * self.batch

    @property
    def ema_half_lives(self) -> tuple[Number, ...]:
        """One or more."""
        half_lives = self.ema_half_life
        return half_lives if isinstance(half_lives, tuple) else (half_lives,)

    @model_validator(mode="after")
    def _there_is_an_average(self) -> Self:
        lives = self.ema_half_lives
        if not lives or len({half_life_name(life) for life in lives}) < len(lives):
            raise ValueError("ema_half_life: give one or more, all different")
        return self

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(
                f"accumulate: a batch of {self.batch} does not split into {self.accumulate} equal "
                "parts"
            )
        return self

    @model_validator(mode="after")
    def _rates_are_of_networks(self) -> Self:
        networks = self.task.architectures
        for name in self.optimiser.rates:
            if name not in networks:
                raise ValueError(
                    f"optimiser.rates: no network {name!r}; there are {', '.join(networks)}"
                )
        return self


def half_life_name(half_life: Number) -> str:
    """What tells averages apart in names: the half-life, at its end where it moves, kimg."""
    return f"{half_life.end if isinstance(half_life, Schedule) else half_life:g}"
