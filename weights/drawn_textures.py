"""Pages of textures: stripes, weaves, fur and clouds, to learn what photographs have little of:
detail as fine as pixels that is no noise.

    python weights/drawn_textures.py OUT [--count 50]

``denoise`` was trained on such pages beside photographs and ``drawn_pages.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

SIDE = 512
# Directions that hairs are drawn in, of which each place has the two nearest to its own.
DIRECTIONS = 9

# A texture ``[h w]`` in -1..1, a picture ``[h w 3]`` and a colour ``[3]`` in 0..1.
Map = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description="Pages of textures.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=50)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for i in range(args.count):
        pixels = page(np.random.default_rng(i)).clip(0, 1) * 255
        Image.fromarray(pixels.round().astype(np.uint8)).save(args.out / f"texture{i:03d}.png")


def page(random: Generator) -> Map:
    """One texture, and patches of others on it, whose borders are about as sharp as a lens's."""
    image = cloth(random)
    for _ in range(random.integers(2, 6)):
        patch = smooth(random, random.uniform(25, 70)) > random.uniform(0, 0.4)
        share = ndimage.gaussian_filter(patch.astype(float), random.uniform(0.3, 1.2))[..., None]
        image = image * (1 - share) + cloth(random) * share
    return image


def cloth(random: Generator) -> Map:
    """A texture of two colours, in uneven light."""
    kinds = (stripes, stripes, weave, fur, fur, clouds)
    share = (kinds[random.integers(len(kinds))](random)[..., None] + 1) / 2
    one, other = colour(random), colour(random)
    mean, contrast = (one + other) / 2, random.uniform(0.15, 1)
    picture = mean + contrast * ((one - mean) * (1 - share) + (other - mean) * share)
    light = smooth(random, random.uniform(30, 90))[..., None]
    return picture * (1 + 0.5 * random.uniform() * light)


def stripes(random: Generator) -> Map:
    """Waves of 2 to 25 px, whose lines bend, soft or hard."""
    angle, frequency = random.uniform(0, np.pi), random.uniform(0.04, 0.45)
    y, x = np.mgrid[:SIDE, :SIDE]
    folds = smooth(random, random.uniform(25, 90)) * random.uniform(0, 30)
    creases = smooth(random, random.uniform(8, 25)) * random.uniform(0, 3)
    along = x * np.cos(angle) + y * np.sin(angle) + folds + creases
    return np.tanh(random.choice([1, 1, 3, 20]) * np.sin(2 * np.pi * frequency * along))


def weave(random: Generator) -> Map:
    one, other = stripes(random), stripes(random)
    return one * other if random.uniform() < 0.5 else np.maximum(one, other)


def fur(random: Generator) -> Map:
    """Noise drawn out to hairs, along directions that turn over the page."""
    noise = np.fft.fft2(random.standard_normal((SIDE, SIDE)))
    bend, first = smooth(random, random.uniform(30, 80)), random.uniform(0, np.pi)
    long, thin = random.uniform(2, 9), random.uniform(0.4, 1.2)
    y, x = (np.fft.fftfreq(SIDE, 1 / SIDE)[:, None], np.fft.fftfreq(SIDE, 1 / SIDE)[None])
    places, hairs = np.linspace(-1, 1, DIRECTIONS), np.zeros((SIDE, SIDE))
    for place in places:
        angle = first + 1.2 * place
        along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        hair = np.exp(-((along / long) ** 2 + (across / thin) ** 2) / 2)
        drawn = np.fft.ifft2(noise * np.fft.fft2(hair / np.sqrt((hair**2).sum()))).real
        hairs += drawn * np.clip(1 - np.abs(bend - place) / (places[1] - places[0]), 0, 1)
    return np.tanh(random.uniform(0.4, 1) * hairs)


def clouds(random: Generator) -> Map:
    """Noise whose spectrum falls with a power of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.fftfreq(SIDE)[None])
    frequency[0, 0] = 1
    noise = np.fft.fft2(random.standard_normal((SIDE, SIDE)))
    drawn = np.fft.ifft2(noise / frequency ** random.uniform(0.4, 1.6)).real
    return np.tanh(0.6 * drawn / drawn.std())


def smooth(random: Generator, width: float) -> Map:
    """A map in -1..1 that changes over ``width`` px."""
    found = ndimage.gaussian_filter(random.standard_normal((SIDE, SIDE)), width, mode="wrap")
    return found / np.abs(found).max()


def colour(random: Generator) -> Map:
    found, strength = random.uniform(size=3), random.choice([0, 0.4, 1])
    return found.mean() + strength * (found - found.mean())


if __name__ == "__main__":
    main()
