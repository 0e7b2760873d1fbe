"""The content of pictures in the style of others: any pictures, of any size.

The encoder goes over a picture tile by tile, the means and deviations are those of the whole of its
features, and the decoder goes over these tile by tile, so that a large picture has one style, and
no seams. Memory beyond the pictures is that of the features (two numbers a pixel, for the network
that ships) and of a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import colour, images, tiles
from .checkpoint import Model, Running
from .errors import CheckpointError, UsageError
from .graph.host import Host
from .networks.adain import STRIDE, Moments, StyleArchitecture, StyleNetwork, mixed, moments
from .super_resolution import refuse_broken, reporting
from .tiles import Progress, Tiling

Colours = Literal["style", "matched", "luminance"]
# Px of a tile's side, where the largest feature map has so many values a pixel at most, and where
# it has more.
NARROW, TILE, SMALL_TILE = 32, 1024, 512
# Channels whose moments are taken at a time.
CHANNELS = 32


class WeightedStyle(NamedTuple):
    """A style picture ``[h w c]``, and its share of the whole, from 0 to 1."""

    picture: Tensor
    share: float


def transfer(
    host: Host,
    model: Model,
    image: Tensor,
    styles: Sequence[tuple[Tensor, float]],
    strength: float = 1.0,
    colours: Colours = "style",
    style_size: int = 512,
    mask: Tensor | None = None,
) -> Tensor:
    """IMAGE ``[b h w c]`` in the style of others -> IMAGE ``[b h w 3]``, or with alpha, which is
    kept. Each picture is run by itself.

    Args:
        styles: IMAGEs with the weight of each, 0 or more; pictures of a batch share its weight.
        strength: how far to go from the picture, 0, to the style, 1.
        colours: ``style``: those of the styles; ``matched``: the styles are given the pictures'
            colours beforehand; ``luminance``: brightness alone is changed.
        style_size: shorter side to which larger style pictures are reduced, px; 0: as they are.
        mask: MASK of where to change pictures (1), one for all or one each; None: everywhere.

    Raises:
        CheckpointError: ``model`` is not for style transfer.
        DataError: pictures have NaN, infinity or another number of channels, the masks are too
            few, or memory runs out.
        UsageError: no weight is above 0.
    """
    if not isinstance(model.architecture, StyleArchitecture):
        raise CheckpointError(
            f"{model.name} holds a {model.card.architecture['kind']} for {model.card.task}, which "
            "does not transfer styles: load a network for style transfer (adain or residual-adain)"
        )
    refuse_broken(host, image)
    b, h, w, c = image.shape
    weight = None if mask is None else images.fitted_mask(mask, b, (h, w))[..., None]
    chosen = list(_weighted(host, styles, style_size))
    if strength == 0 or (weight is not None and not weight.any()):
        image = _clamped(image)
        return image.expand(-1, -1, -1, 3) if c == 1 else image
    result = tiles.empty(b, h, w, max(c, 3)) if b > 1 or c == 4 else None
    with host.running(model) as running:
        assert isinstance(running.network, StyleNetwork)
        work = _Work(host, running, running.network, _tiling(model.architecture), strength)
        encodings = len(chosen) * (1 if colours == "style" else b)
        work.phases = encodings + b * (2 if strength == 1 else 3)
        common = work.style(chosen) if colours == "style" else None
        for i in range(b):
            given = _clamped(image[i : i + 1])
            picture = given[..., :3].expand(-1, -1, -1, 3)
            styled = _styled(work, picture, chosen, common, colours)
            if weight is not None:
                styled = torch.lerp(picture, styled, weight[i])
            if result is None:  # the one picture is the result
                return styled
            result[i, ..., :3] = styled[0]
            if c == 4:
                result[i, ..., 3:] = given[0, ..., 3:]
    assert result is not None
    return result


def _styled(
    work: _Work,
    picture: Tensor,
    styles: Sequence[WeightedStyle],
    common: Moments | None,
    colours: Colours,
) -> Tensor:
    """``[1 h w 3]`` -> the same; ``common`` is the style where it does not depend on the picture's
    colours."""
    if common is not None:
        return work.run(picture, common)
    if colours == "matched":
        found = colour.statistics(picture)
        own = [s._replace(picture=colour.matched(s.picture[None], found)[0]) for s in styles]
        return work.run(picture, work.style(own))
    grey = colour.luminance(picture)
    own = [
        s._replace(picture=colour.levelled(colour.luminance(s.picture[None]), grey)[0])
        for s in styles
    ]
    styled = work.run(grey.expand_as(picture), work.style(own))
    return colour.with_luminance(picture, colour.luminance(styled))


@dataclass
class _Work:
    """Runs a network's parts on pictures of any size, and reports how far it is."""

    host: Host
    running: Running
    network: StyleNetwork
    tiling: Tiling
    strength: float
    phases: int = 1
    """Encodings and decodings in all."""
    done: int = 0

    def style(self, styles: Sequence[WeightedStyle]) -> Moments:
        """Of pictures mixed by their shares."""
        found = [_moments(self.encode(s.picture[None].expand(-1, -1, -1, 3))) for s in styles]
        return mixed(found, [s.share for s in styles])

    def run(self, picture: Tensor, style: Moments) -> Tensor:
        """``[1 h w 3]`` in that style, at the strength."""
        h, w = picture.shape[1:3]
        features = self.encode(picture)
        own = _moments(features)
        lost = None
        if self.strength < 1:
            # What the decoder cannot show of the picture itself comes back as the style goes.
            lost = self.decode(features, h, w).neg_().add_(picture).mul_(1 - self.strength)
        # Equation 14: (1 - strength) f + strength t, which is linear in f, in its own memory.
        gain = style.deviation / own.deviation
        shift = (style.mean - own.mean * gain) * self.strength
        features.mul_(1 + (gain - 1) * self.strength).add_(shift)
        result = self.decode(features, h, w)
        return result.clamp_(0, 1) if lost is None else result.add_(lost).clamp_(0, 1)

    def encode(self, picture: Tensor) -> Tensor:
        """``[1 h w 3]`` in 0..1 -> features ``[1 c h/8 w/8]`` of the picture, padded to sizes that
        the network takes; float32 on the CPU."""
        sizes = self.network.sizes
        blocks = F.pixel_unshuffle(tiles.padded(picture.movedim(3, 1), sizes), STRIDE)
        return self._tiled(blocks, lambda x: self.network.encode(F.pixel_shuffle(x, STRIDE)), 1)

    def decode(self, features: Tensor, h: int, w: int) -> Tensor:
        """Features -> ``[1 h w 3]``, about 0..1."""
        return self._tiled(features, self.network.decode, STRIDE)[:, :, :h, :w].movedim(1, 3)

    def _tiled(self, x: Tensor, call: Callable[[Tensor], Tensor], scale: int) -> Tensor:
        """``call`` on windows of positions of the features, each STRIDE px."""
        with self._reporting() as progress:
            return tiles.run(
                lambda part: call(part.to(self.running.device)),
                x,
                scale=scale,
                tiling=self.tiling,
                progress=progress,
            )

    def _reporting(self) -> AbstractContextManager[Progress]:
        self.done += 1
        return reporting(self.host, self.network, self.done - 1, self.phases)


def _moments(features: Tensor) -> Moments:
    """A few channels at a time, as they take several times the memory of the features."""
    parts = [moments(part) for part in features.split(CHANNELS, 1)]
    return Moments(*(torch.cat(values, 1) for values in zip(*parts, strict=True)))


def _tiling(architecture: StyleArchitecture) -> Tiling:
    """In positions of the features."""
    tile = TILE if architecture.width <= NARROW else SMALL_TILE
    around = -(-architecture.reach // STRIDE)
    length = max(tile // STRIDE, 3 * around + 1)
    return Tiling(tile=length, overlap=2 * around, blend=0, step=STRIDE)


def _clamped(image: Tensor) -> Tensor:
    """float32 on the CPU, in 0..1; a copy only where it has to be one."""
    image = image.float().cpu()
    low, high = image.aminmax()
    return image if low >= 0 and high <= 1 else image.clamp(0, 1)


def _weighted(
    host: Host, styles: Sequence[tuple[Tensor, float]], size: int
) -> Iterator[WeightedStyle]:
    total = sum(weight for _, weight in styles)
    if total <= 0:
        raise UsageError("all styles have the weight 0: give at least one a weight above 0")
    for number, (batch, weight) in enumerate(styles, 1):
        refuse_broken(host, batch, f"style {number}: ")
        if weight > 0:
            for picture in _clamped(batch):
                yield WeightedStyle(_reduced(picture, size), weight / total / len(batch))


def _reduced(picture: Tensor, size: int) -> Tensor:
    """``[h w c]`` -> RGB, alpha on white, of that shorter side at most."""
    if picture.shape[2] == 4:
        picture = 1 + (picture[..., :3] - 1) * picture[..., 3:]
    picture = picture.expand(-1, -1, 3)
    h, w = picture.shape[:2]
    scale = size / min(h, w)
    if not size or scale >= 1:
        return picture
    target = (max(round(h * scale), 1), max(round(w * scale), 1))
    return images.resized(picture[None], target, "bicubic")[0]
