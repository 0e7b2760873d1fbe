"""Do generated pictures help a classifier? CIFAR-10, a small share of it, with and without them.

    python benchmarks/augment_classifier.py CIFAR10-TRAIN CIFAR10-TEST WEIGHTS
        [--shares 1 5 10] [--seeds 3] [--steps 750] [--per-class 250] [--oversample 1.5]
        [--unfiltered] [--results FILE.json] [--plot FILE.svg]

Both data sets are what the trainer's --data takes. For each seed: a share of the training pictures
of every class (the smaller shares lie in the larger ones), and the same classifier trained on it
for the same number of steps, without and with generated pictures. Those are drawn, scored and
filtered against that share as `imagen-nodes augment` does; half of each batch is generated then.
--unfiltered adds a third way: the first that are drawn, as many, whatever they look like.
Batches of both are flipped and shifted by up to 4 px. The classifier (0.14 million values, float32)
is that of the last step; accuracy is taken on the whole test set. Finished runs in --results are
not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from imagen_nodes import checkpoint, generation, latents
from imagen_nodes.augmentation.drawing import features_of, pixels_of
from imagen_nodes.augmentation.judging import Real, pick
from imagen_nodes.augmentation.settings import Settings
from imagen_nodes.checkpoint import Model
from imagen_nodes.evaluation.features import FeatureSpace, mobilenet
from imagen_nodes.graph.local import LocalHost
from imagen_nodes.images import to_network
from imagen_nodes.networks.architecture import GeneratorArchitecture
from imagen_nodes.training.data import Dataset, open_data

Pixels = NDArray[np.uint8]
BATCH, RATE, DECAY, SHIFT = 64, 0.1, 5e-4, 4
LAYERS = ((16, 1), (32, 2), (64, 2), (64, 1), (128, 2))
ARMS = ("without", "with", "unfiltered")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--shares", type=float, nargs="+", default=[1, 5, 10], help="percent")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--per-class", type=int, default=250)
    parser.add_argument("--oversample", type=float, default=1.5)
    parser.add_argument("--unfiltered", action="store_true")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    model = checkpoint.load(args.weights)
    train, test = (open_data(path, 32, 3) for path in (args.train, args.test))
    settings = Settings(per_class=args.per_class, oversample=args.oversample)
    arms = ARMS if args.unfiltered else ARMS[:2]
    found: dict[str, float] = {}
    # Figures of other settings are others.
    same = {"per_class": args.per_class, "oversample": args.oversample, "steps": args.steps}
    same |= {key: str(getattr(args, key)) for key in ("train", "test", "weights")}
    if args.results and args.results.exists():
        before = json.loads(args.results.read_text())
        if before.get("settings") != same:
            parser.error(f"{args.results}: holds figures of other settings: name another file")
        found = before["accuracies"]
    for seed in range(args.seeds):
        share: Shares | None = None
        for percent in args.shares:
            for arm in arms:
                name = f"{percent:g}% {arm} {seed}"
                if name in found:
                    continue
                start = time.perf_counter()
                share = share or Shares(train, model, settings, seed, max(args.shares))
                real = share.real(percent)
                fake = None if arm == "without" else share.generated(percent, arm == "with")
                found[name] = trained(real, fake, test, args.steps, seed)
                seconds = time.perf_counter() - start
                print(f"{name}: {found[name]:.2%}, {seconds:.0f} s", flush=True)
                if args.results:
                    written = {"settings": same, "accuracies": found}
                    args.results.write_text(json.dumps(written, indent=1))
    print(table(found, arms, args.shares, args.seeds))
    if args.plot:
        plot(found, arms, args.shares, args.seeds, args.plot)


class Shares:
    """The training pictures of one seed, and generated ones to go with them."""

    def __init__(
        self, train: Dataset, model: Model, settings: Settings, seed: int, largest: float
    ) -> None:
        assert train.labels is not None
        self.settings, self.classes = settings, len(train.class_names)
        random = np.random.default_rng(seed)
        self.order = [
            random.permutation(np.flatnonzero(train.labels == k)) for k in range(self.classes)
        ]
        self.images = train.images
        self.drawn = [draw(model, settings, seed, k) for k in range(self.classes)]
        self.largest = largest

    @cached_property
    def features(self) -> tuple[list[Tensor], list[Tensor]]:
        """By class, of the largest share's pictures and of those that are drawn."""
        space = mobilenet(torch.device("cpu"))
        parts = [self.images[order[: self._count(order, self.largest)]] for order in self.order]
        real, fake = ([features_in(space, part) for part in side] for side in (parts, self.drawn))
        return real, fake

    def _count(self, order: NDArray[np.int64], percent: float) -> int:
        return round(len(order) * percent / 100)

    def real(self, percent: float) -> tuple[Pixels, NDArray[np.int64]]:
        """Pictures and labels of that share."""
        parts = [order[: self._count(order, percent)] for order in self.order]
        labels = np.repeat(np.arange(self.classes), [len(part) for part in parts])
        return self.images[np.concatenate(parts)], labels

    def generated(self, percent: float, filtered: bool) -> tuple[Pixels, NDArray[np.int64]]:
        """Those that `imagen-nodes augment` would keep with that share; or the first."""
        s, kept = self.settings, []
        for k, order in enumerate(self.order):
            if not filtered:
                kept.append(self.drawn[k][: s.per_class])
                continue
            known, fake = (side[k] for side in self.features)
            real = Real.of(known[: self._count(order, percent)])
            picked = pick(
                fake / real.usual,
                real.realism(fake),
                real.nearest(fake)[0],
                s.per_class,
                s.copy_distance,
                s.duplicate_distance,
            )
            kept.append(self.drawn[k][picked.indices])
        labels = np.repeat(np.arange(self.classes), [len(part) for part in kept])
        print(f"  {percent:g}%: {len(labels)} generated pictures are kept", flush=True)
        return np.concatenate(kept), labels


def draw(model: Model, settings: Settings, seed: int, k: int) -> Pixels:
    """The candidates of a class, other ones for each seed."""
    a = model.architecture
    assert isinstance(a, GeneratorArchitecture)
    count = round(settings.per_class * settings.oversample)
    latent = latents.sample(count, a.z_dim, 1_000_000 * seed + count * k)
    latent = latent.with_labels(torch.full((count,), k))
    with torch.inference_mode(), LocalHost(device="cpu").running(model) as running:
        parts = [pixels_of(part) for part in generation.draw(running, a, latent)]
    return np.concatenate(parts)


def features_in(space: FeatureSpace, pixels: Pixels) -> Tensor:
    parts = range(0, len(pixels), 50)
    return torch.cat([features_of(space, np.asarray(pixels[i : i + 50])) for i in parts])


def classifier(classes: int) -> nn.Module:
    """Convolutions with batch norm; the mean over space; a linear layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, stride in LAYERS:
        layers += [nn.Conv2d(inputs, width, 3, stride, 1, bias=False)]
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        inputs = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)  # pyright: ignore


def trained(
    real: tuple[Pixels, NDArray[np.int64]],
    fake: tuple[Pixels, NDArray[np.int64]] | None,
    test: Dataset,
    steps: int,
    seed: int,
) -> float:
    """Accuracy on ``test`` after ``steps`` steps."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    network = classifier(len(test.class_names))
    sgd = torch.optim.SGD(
        network.parameters(), RATE, momentum=0.9, weight_decay=DECAY, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, RATE, total_steps=steps)
    sources = [epochs(*real, BATCH if fake is None else BATCH // 2, random)]
    sources += [] if fake is None else [epochs(*fake, BATCH // 2, random)]
    for _ in range(steps):
        parts = [next(source) for source in sources]
        x = changed(to_network(torch.cat([images for images, _ in parts])), random)
        loss = F.cross_entropy(network(x), torch.cat([labels for _, labels in parts]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        schedule.step()
    network.eval()
    assert test.labels is not None
    right = 0
    with torch.no_grad():
        for i in range(0, len(test.images), 500):
            x = to_network(torch.from_numpy(test.images[i : i + 500]))
            labels = torch.from_numpy(test.labels[i : i + 500])
            right += int((network(x).argmax(1) == labels).sum())
    return right / len(test.images)


def epochs(pixels: Pixels, labels: NDArray[np.int64], size: int, random: torch.Generator):
    """Batches without end; every picture once before one comes again."""
    images, classes = torch.from_numpy(pixels), torch.from_numpy(labels)
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(len(images), generator=random)])
        index, waiting = waiting[:size], waiting[size:]
        yield images[index], classes[index]


def changed(x: Tensor, random: torch.Generator) -> Tensor:
    """Flipped, and shifted by up to ``SHIFT`` px; what comes in is reflected."""
    b, _, h, w = x.shape
    x = torch.where((torch.rand(b, generator=random) < 0.5)[:, None, None, None], x.flip(3), x)
    padded = F.pad(x, (SHIFT,) * 4, mode="reflect")
    tops, lefts = torch.randint(2 * SHIFT + 1, (2, b), generator=random).tolist()
    places = zip(padded, tops, lefts, strict=True)
    cut = [image[:, top : top + h, left : left + w] for image, top, left in places]
    return torch.stack(cut).contiguous(memory_format=torch.channels_last)


def table(found: dict[str, float], arms: tuple[str, ...], shares: list[float], seeds: int) -> str:
    """Markdown: accuracy in percent, mean and standard deviation over the seeds; and the same of
    the gain over the first way."""
    gains = [f"{arm}, gain" for arm in arms[1:]]
    lines = [f"| share | {' | '.join([*arms, *gains])} |", "|---" * (2 * len(arms)) + "|"]
    for percent in shares:
        runs = [[100 * found[f"{percent:g}% {a} {i}"] for i in range(seeds)] for a in arms]
        gained = [[b - a for a, b in zip(runs[0], run, strict=True)] for run in runs[1:]]
        cells = [f"{fmean(run):.1f} ± {spread(run):.1f}" for run in runs]
        cells += [f"{fmean(run):+.1f} ± {spread(run):.1f}" for run in gained]
        lines.append(f"| {percent:g}% | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def plot(
    found: dict[str, float],
    arms: tuple[str, ...],
    shares: list[float],
    seeds: int,
    path: Path,
) -> None:
    """Bars of the means, with standard deviations and the runs themselves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    width = 0.75 / len(arms)
    for number, arm in enumerate(arms):
        values = [[100 * found[f"{p:g}% {arm} {i}"] for i in range(seeds)] for p in shares]
        places = np.arange(len(shares)) + (number - (len(arms) - 1) / 2) * width
        means, errors = [fmean(v) for v in values], [spread(v) for v in values]
        label = "generated, unfiltered" if arm == "unfiltered" else f"{arm} generated pictures"
        axes.bar(
            places, means, width * 0.94, yerr=errors, capsize=4, color=f"C{number}", label=label
        )
        for place, runs in zip(places, values, strict=True):
            axes.plot([place] * len(runs), runs, "k.", markersize=4)
    names = [f"{p:g}%" for p in shares]
    axes.set_xticks(range(len(shares)), names)
    axes.set(xlabel="share of CIFAR-10's training set", ylabel="test accuracy, %")
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    axes.legend(loc="upper left")
    axes.grid(axis="y", alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
