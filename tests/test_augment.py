"""Augmentation: every transformation against a plain one of a single image, in loops and numpy;
what is drawn; and what the trainer relies on (gradients, repetition, p = 0)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from imagen_nodes.training import ada, augment
from imagen_nodes.training.ada import Draws, Pipe
from imagen_nodes.training.augment import (
    POLICIES,
    AdaptiveAugment,
    Augment,
    DiffAugment,
    RampedAugment,
    adapt,
    apply,
    diff_augment,
    jitter,
)
from imagen_nodes.training.randomness import Numbers

EVERYTHING = {"blit": 1.0, "geometry": 1.0, "colour": 1.0, "cutout": 1.0, "noise": 1.0}
SPECS: dict[str, DiffAugment | AdaptiveAugment | RampedAugment] = {
    "diff-augment": DiffAugment(),
    "ada": AdaptiveAugment.model_validate(EVERYTHING),
    "ada-ramp": RampedAugment.model_validate(EVERYTHING),
}


def seeded(seed: int = 0) -> Numbers:
    return Numbers(torch.Generator().manual_seed(seed))


def pictures(count: int = 3, channels: int = 3, h: int = 6, w: int = 8, seed: int = 0) -> Tensor:
    return seeded(seed).uniform(count, channels, h, w) * 2 - 1


def float64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# ------------------------------------------------------------------------ plain references


def cubic(x: float) -> float:
    """Keys' kernel, a = -3/4."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def mirrored(i: int, n: int) -> int:
    i %= 2 * n
    return i if i < n else 2 * n - 1 - i


def plainly_warped(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """``image [c h w]`` by a matrix from new to old positions, px from the centre."""
    c, h, w = image.shape
    out = np.zeros((c, h, w))
    for i in range(h):
        for j in range(w):
            x, y, _ = source @ np.array([j + 0.5 - w / 2, i + 0.5 - h / 2, 1])
            x, y = x + w / 2 - 0.5, y + h / 2 - 0.5
            for m in range(math.floor(y) - 1, math.floor(y) + 3):
                for n in range(math.floor(x) - 1, math.floor(x) + 3):
                    pixel = image[:, mirrored(m, h), mirrored(n, w)]
                    out[:, i, j] += cubic(y - m) * cubic(x - n) * pixel
    return out


def close(tensor: Tensor, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(tensor.numpy(), expected, atol=tolerance, rtol=tolerance)


def turn(angle: float) -> np.ndarray:
    """A position's clockwise turn where y points down."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def move(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


WARPS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...], np.ndarray]] = {
    "wider": (ada.scaling, (1.5, 0.8), np.diag([1.5, 0.8, 1])),
    "turned": (ada.rotation, (0.7,), turn(0.7)),
    "moved": (ada.translation, (1.3, -2.6), move(1.3, -2.6)),
}


@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("channels", [1, 4])
def test_one_warp(name: str, channels: int) -> None:
    function, values, forward = WARPS[name]
    images = pictures(1, channels)
    new = ada.resample(images, function(*(float64(v) for v in values)), "bicubic", "reflection")
    close(new[0], plainly_warped(images[0].numpy(), np.linalg.inv(forward)))


def test_whole_pixels_are_moved_as_they_are() -> None:
    """Mirroring, quarter turns and whole shifts interpolate nothing."""
    square = pictures(1, 3, 8, 8)
    image = square[0].numpy()

    def seen(matrix: Tensor) -> Tensor:
        return ada.resample(square, matrix, "bicubic", "reflection")[0]

    close(seen(ada.scaling(float64(-1), float64(1))), image[:, :, ::-1], 5e-6)
    close(seen(ada.rotation(float64(math.pi / 2))), np.rot90(image, -1, (1, 2)), 5e-6)
    padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), "symmetric")
    close(seen(ada.translation(float64(2), float64(-3))), padded[:, 6:14, 1:9], 5e-6)


@pytest.mark.parametrize(("mode", "kept"), [("bicubic", 0.972), ("bilinear", 0.707)])
def test_what_half_a_pixel_leaves_of_detail(mode: str, kept: float) -> None:
    """The amplitude of a wave of four pixels: the reason for bicubic interpolation."""
    wave = torch.cos(torch.arange(32.0) * math.pi / 2).expand(1, 1, 32, 32)
    half = ada.translation(float64(0.5), float64(0))
    row = ada.resample(wave, half, mode, "reflection")[0, 0, 0, 8:24]
    assert (row.square().mean() * 2).sqrt().item() == pytest.approx(kept, abs=0.002)


def hsl_turn(angle: float) -> np.ndarray:
    """Rotation about (1, 1, 1), from a basis of its own."""
    grey = np.ones(3) / math.sqrt(3)
    first = np.array([1, -1, 0]) / math.sqrt(2)
    basis = np.stack([grey, first, np.cross(grey, first)])
    return (
        basis.T
        @ np.block([[np.eye(1), np.zeros((1, 2))], [np.zeros((2, 1)), turn(angle)[:2, :2]]])
        @ basis
    )


def plain_colour(name: str, value: float, image: np.ndarray) -> np.ndarray:
    mean = image.mean(0, keepdims=True)
    return {
        "brightness": lambda: image + value,
        "contrast": lambda: image * value,
        "luma_flip": lambda: image - 2 * value * mean,
        "hue": lambda: np.einsum("ij,jhw->ihw", hsl_turn(value), image),
        "saturation": lambda: mean + (image - mean) * value,
    }[name]()


COLOURS = {"brightness": 0.3, "contrast": 1.7, "luma_flip": 1.0, "hue": 0.9, "saturation": 2.5}


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("channels", [3, 4])
def test_one_colour(name: str, channels: int) -> None:
    value, images = COLOURS[name], pictures(1, channels)
    new = ada.recolour(images, getattr(ada, name)(float64(value)))
    close(new[0, :3], plain_colour(name, value, images[0, :3].numpy()))
    assert torch.equal(new[:, 3:], images[:, 3:])


@pytest.mark.parametrize("name", COLOURS)
def test_grey_is_as_three_equal_channels(name: str) -> None:
    grey = pictures(1, 2)
    matrix = getattr(ada, name)(float64(COLOURS[name]))
    colour = ada.recolour(grey[:, :1].expand(-1, 3, -1, -1), matrix)
    new = ada.recolour(grey, matrix)
    torch.testing.assert_close(new[:, :1], colour.mean(1, keepdim=True))
    assert torch.equal(new[:, 1:], grey[:, 1:])


def test_a_box_is_cut() -> None:
    images = pictures(2, 4)
    new = ada.cut_out(images, torch.stack([float64(1, 2, 3, 2), float64(-1.6, 3.4, 4, 3)]))
    expected = images.clone()
    expected[0, :, 2:4, 1:4] = 0
    expected[1, :, 3:6, 0:2] = 0  # to 2.4 and 6.4: the centres of pixels 0 and 1, 3 to 5
    assert torch.equal(new, expected)
    assert torch.equal(ada.cut_out(images, torch.zeros(2, 4)), images)


def test_noise_leaves_alpha_alone() -> None:
    images = pictures(2, 4, 64, 64)
    new = ada.add_noise(images, float64(0.1, 0), seeded())
    difference = (new - images)[0, :3]
    assert difference.std().item() == pytest.approx(0.1, rel=0.03)
    assert difference.mean().abs().item() < 0.005
    assert torch.equal(new[:, 3:], images[:, 3:])
    assert torch.equal(new[1], images[1])


# ------------------------------------------------------------------------ the whole pipe


class Recorded(Draws):
    """What was asked for and what was given, in order."""

    log: list[tuple[Any, ...]]
    values: list[np.ndarray]

    def uniform(self, p: float, low: float, high: float) -> Tensor:
        return self._note(("uniform", p, low, high), super().uniform(p, low, high))

    def normal(self, p: float, deviation: float) -> Tensor:
        return self._note(("normal", p, deviation), super().normal(p, deviation))

    def below(self, p: float, limit: int) -> Tensor:
        return self._note(("below", p, limit), super().below(p, limit))

    def _note(self, entry: tuple[Any, ...], values: Tensor) -> Tensor:
        self.log.append(entry)
        self.values.append(values.numpy())
        return values


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    Recorded.log, Recorded.values = [], []
    monkeypatch.setattr(ada, "Draws", Recorded)
    monkeypatch.setattr(augment, "Draws", Recorded)
    return Recorded


def test_the_pipe_draws_the_papers_numbers(recorded: type[Recorded]) -> None:
    """Appendix B, in its order, at p = 0.19, where 1 - sqrt(1 - p) = 0.1; noise and cutout last.
    A share multiplies p, so that 0.5 of 0.38 is 0.19 again."""
    Pipe.model_validate(dict.fromkeys(EVERYTHING, 0.5)).transform(pictures(), 0.38, seeded())
    pi, p, always = math.pi, 0.19, 1
    expected = [
        ("below", p, 2),  # mirrored
        ("below", p, 4),  # quarter turns
        *[("uniform", always, -0.125, 0.125)] * 2,  # whole shifts, under a coin for both
        ("normal", p, 0.2),  # scale
        ("uniform", 0.1, -pi, pi),
        ("normal", p, 0.2),  # stretching
        ("uniform", 0.1, -pi, pi),
        *[("normal", always, 0.125)] * 2,
        ("normal", p, 0.2),  # brightness
        ("normal", p, 0.5),  # contrast
        ("below", p, 2),  # luma
        ("uniform", p, -pi, pi),  # hue
        ("normal", p, 1.0),  # saturation
        ("normal", p, 0.1),  # noise
        *[("uniform", always, 0, 1)] * 2,  # the box's middle
    ]
    assert [e[0] for e in recorded.log] == [e[0] for e in expected]
    for got, wanted in zip(recorded.log, expected, strict=True):
        assert got[1:] == pytest.approx(wanted[1:])


def test_the_pipe_image_by_image(recorded: type[Recorded]) -> None:
    """At p = 1: all transformations one after another, as the paper's pseudocode has them."""
    images = pictures(3, 3)
    pipe = Pipe(cutout=1.0)
    new = pipe.transform(images, 1.0, seeded(5))
    h, w = images.shape[2:]
    for k, image in enumerate(images.numpy()):
        v = [values[k] for values in recorded.values]
        steps = [
            np.diag([1 - 2 * v[0], 1, 1]),
            turn(v[1] * math.pi / 2),
            move(np.round(v[2] * w), np.round(v[3] * h)),
            np.diag([2 ** v[4], 2 ** v[4], 1]),
            turn(v[5]),
            np.diag([2 ** v[6], 2 ** -v[6], 1]),
            turn(v[7]),
            move(v[8] * w, v[9] * h),
        ]
        forward = np.eye(3)
        for step in steps:
            forward = step @ forward
        expected = plainly_warped(image, np.linalg.inv(forward))
        for name, value in (
            ("brightness", v[10]),
            ("contrast", 2 ** v[11]),
            ("luma_flip", v[12]),
            ("hue", v[13]),
            ("saturation", 2 ** v[14]),
        ):
            expected = plain_colour(name, value, expected)
        for i in range(h):
            for j in range(w):
                x, y = (j + 0.5) / w, (i + 0.5) / h
                if abs(x - v[15]) < 0.25 and abs(y - v[16]) < 0.25:
                    expected[:, i, j] = 0
        close(new[k], expected, 2e-4)


@pytest.mark.parametrize("group", ["blit", "geometry", "colour", "cutout", "noise"])
def test_a_group_that_is_off_draws_nothing(group: str, recorded: type[Recorded]) -> None:
    off = dict.fromkeys(EVERYTHING, 0.0)
    images = pictures()
    assert Pipe.model_validate(off).transform(images, 1.0, seeded()) is images
    assert not recorded.log
    assert not torch.equal(
        Pipe.model_validate({**off, group: True}).transform(images, 1.0, seeded()), images
    )
    assert recorded.log


def test_the_share_of_images_that_each_touches() -> None:
    """p itself; for mirroring half of it (the paper draws whether to, again), for quarter turns
    three quarters, for the two rotations together p."""
    p, count = 0.3, 20_000
    eye = ada.identity(count, 3)

    def share(matrix: Tensor) -> float:
        return (
            (matrix - eye[:, : matrix.shape[1], : matrix.shape[2]])
            .abs()
            .amax((1, 2))
            .gt(1e-9)
            .double()
            .mean()
            .item()
        )

    def draws() -> Draws:
        return Draws(count, seeded(1))

    assert draws().coin(p).double().mean().item() == pytest.approx(p, abs=0.01)
    assert (draws().below(p, 2) != 0).double().mean().item() == pytest.approx(p / 2, abs=0.01)
    assert (draws().below(p, 4) != 0).double().mean().item() == pytest.approx(p * 0.75, abs=0.01)
    # Not touched by any of the five: (1 - p)^4 for four coins and the two rotations' 1 - p.
    assert share(ada.warps(draws(), p, 32, 32)) == pytest.approx(1 - 0.7**4, abs=0.01)
    # Whole shifts of 32 px by up to 4 are 0 in x and y both once in 64.
    untouched = (1 - p / 2) * (1 - p * 0.75) * (1 - p * (1 - 1 / 64))
    assert share(ada.blits(draws(), p, 32, 32)) == pytest.approx(1 - untouched, abs=0.01)
    cut = ada.boxes(draws(), p, 32, 32)[:, 2] > 0
    assert cut.double().mean().item() == pytest.approx(p, abs=0.01)


def test_untouched_images_stay_as_they_are() -> None:
    images = pictures(64)
    new = apply(SPECS["ada"], images, 0.02, seeded())
    same = (new - images).abs().amax((1, 2, 3)) < 1e-5
    assert 0.6 < same.double().mean() < 1  # (1 - 0.02)^14 = 0.75


# ------------------------------------------------------------------------ DiffAugment, jitter


def test_diff_augment_colour_by_hand(recorded: type[Recorded]) -> None:
    images = pictures(4, 4)
    new = diff_augment(images, ("colour",), seeded(2))
    expected_log = [
        ("uniform", 1.0, -0.5, 0.5),
        ("uniform", 1.0, -1, 1),
        ("uniform", 1.0, -0.5, 0.5),
    ]
    assert recorded.log == expected_log
    for k, image in enumerate(images.numpy()):
        shift, saturation, contrast = (values[k] for values in recorded.values)
        x = image[:3] + shift
        x = x.mean(0, keepdims=True) + (x - x.mean(0, keepdims=True)) * (1 + saturation)
        x = x.mean() + (x - x.mean()) * (1 + contrast)
        close(new[k, :3], x)
    assert torch.equal(new[:, 3:], images[:, 3:])


@pytest.mark.parametrize(("h", "w"), [(16, 24), (20, 9)])
def test_diff_augment_translation_by_hand(h: int, w: int) -> None:
    """Every shift up to an eighth, and no other; what moves in is 0; alpha moves along."""
    images = pictures(300, 4, h, w)
    new = diff_augment(images, ("translation",), seeded())
    dx, dy = round(w / 8), round(h / 8)
    seen: set[tuple[int, int]] = set()
    for image, moved in zip(images.numpy(), new.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (dy, dy), (dx, dx)))
        matches = [
            (x, y)
            for x in range(-dx, dx + 1)
            for y in range(-dy, dy + 1)
            if np.array_equal(moved, padded[:, dy - y : dy - y + h, dx - x : dx - x + w])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == (2 * dx + 1) * (2 * dy + 1)


@pytest.mark.parametrize(("h", "w"), [(8, 6), (7, 5)])
def test_diff_augment_cutout_by_hand(h: int, w: int) -> None:
    """A box of half the side about every pixel (even sizes: about every corner), cut at the rim."""
    images = torch.ones(2000, 2, h, w)
    new = diff_augment(images, ("cutout",), seeded())

    def spans(side: int) -> set[tuple[int, int]]:
        size = int(side * 0.5 + 0.5)
        middles = range(side + 1 - size % 2)
        return {(max(m - size // 2, 0), min(m - size // 2 + size, side)) for m in middles}

    found: set[tuple[int, int, int, int]] = set()
    for image in new.numpy():
        rows, columns = np.nonzero(image[0] == 0)
        box = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1)
        expected = np.ones((2, h, w))
        expected[:, box[0] : box[1], box[2] : box[3]] = 0
        assert np.array_equal(image, expected)
        found.add(tuple(int(n) for n in box))  # pyright: ignore
    assert {b[:2] for b in found} == spans(h)
    assert {b[2:] for b in found} == spans(w)


@pytest.mark.parametrize("policy", POLICIES)
def test_diff_augments_p_is_the_share_of_images(policy: augment.Policy) -> None:
    images = pictures(3000, 3, 8, 8)
    spec = DiffAugment(policy=(policy,))
    new = apply(spec, images, 0.4, seeded(3))
    touched = (new != images).any(3).any(2).any(1).double().mean().item()
    # 8 px move by -1, 0 or 1 in x and y: one in nine stays.
    wanted = {"colour": 1 - 0.6**3, "translation": 0.4 * 8 / 9, "cutout": 0.4}[policy]
    assert touched == pytest.approx(wanted, abs=0.03)


def test_jitter_by_hand(recorded: type[Recorded]) -> None:
    images = pictures(4, 4)
    new = jitter(images, 0.25, seeded(2))
    assert recorded.log == [("uniform", 1, -0.25, 0.25)] * 3
    for k, image in enumerate(images.numpy()):
        shift, saturation, contrast = (values[k] for values in recorded.values)
        x = image[:3] + shift
        x = x.mean(0, keepdims=True) + (x - x.mean(0, keepdims=True)) * (1 + saturation)
        x = x.mean() + (x - x.mean()) * (1 + contrast)
        close(new[k, :3], x.clip(-1, 1))
    assert torch.equal(new[:, 3:], images[:, 3:])
    assert jitter(images, 0, seeded()) is images


# ------------------------------------------------------------------------ what a trainer relies on


@pytest.mark.parametrize("name", SPECS)
def test_nothing_happens_at_p_0(name: str) -> None:
    images, random = pictures(), seeded()
    before = random.random.get_state()
    assert apply(SPECS[name], images, 0.0, random) is images
    assert torch.equal(random.random.get_state(), before)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_repeats_by_the_generators_state_alone(name: str, channels: int) -> None:
    images, random = pictures(4, channels, 16, 16), seeded()
    first = apply(SPECS[name], images, 0.8, random)
    second = apply(SPECS[name], images, 0.8, random)  # other numbers: real against generated
    assert first.shape == images.shape
    assert torch.equal(first, apply(SPECS[name], images, torch.tensor(0.8), seeded()))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", SPECS)
def test_an_image_depends_on_no_other(name: str) -> None:
    images = pictures(4, 3, 16, 16)
    others = torch.cat([pictures(3, 3, 16, 16, seed=9), images[3:]])
    one, other = (apply(SPECS[name], x, 0.9, seeded()) for x in (images, others))
    assert torch.equal(one[3], other[3])
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("name", SPECS)
def test_gradients_reach_the_images(name: str) -> None:
    """The derivative along a direction is the difference quotient."""
    images = pictures(3, 4, 8, 8).requires_grad_()
    weights, direction = pictures(3, 4, 8, 8, seed=1), pictures(3, 4, 8, 8, seed=2)

    def value(x: Tensor) -> Tensor:
        return (apply(SPECS[name], x, 0.9, seeded(4)) * weights).double().sum()

    value(images).backward()
    assert images.grad is not None
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()
    with torch.no_grad():
        quotient = (value(images + 0.1 * direction) - value(images - 0.1 * direction)) / 0.2
    assert (images.grad * direction).sum().item() == pytest.approx(quotient.item(), abs=1e-3)


@pytest.mark.parametrize("name", SPECS)
def test_autocast_does_not_reach_it(name: str) -> None:
    images = pictures()
    plain = apply(SPECS[name], images, 1.0, seeded())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(apply(SPECS[name], images, 1.0, seeded()), plain)
        half = apply(SPECS[name], images.bfloat16(), 1.0, seeded())
    assert half.dtype == torch.bfloat16


def test_a_grey_image_has_no_saturation_and_an_even_one_no_contrast() -> None:
    grey = torch.full((2, 1, 4, 4), 0.25)
    new = diff_augment(grey, ("colour",), seeded())
    assert new.amax((1, 2, 3)).tolist() == pytest.approx(new.amin((1, 2, 3)).tolist())


def test_wrong_p() -> None:
    with pytest.raises(ValueError, match=r"p is 1\.5, expected 0 to 1"):
        apply(DiffAugment(), pictures(), 1.5, seeded())


# ------------------------------------------------------------------------ p, and recipes


def test_p_follows_the_signs() -> None:
    """4 steps of 64 images of 500 kimg move p by 256/500,000, whatever the distance."""
    p, step = torch.tensor(0.5), 256 / 500_000
    assert adapt(p, torch.tensor(0.9), 256).item() == pytest.approx(0.5 + step)
    assert adapt(p, torch.tensor(0.61), 256).item() == pytest.approx(0.5 + step)
    assert adapt(p, torch.tensor(-0.2), 256).item() == pytest.approx(0.5 - step)
    assert adapt(p, torch.tensor(0.6), 256).item() == 0.5
    assert adapt(p, torch.tensor(0.2), 1000, target=0.1, kimg=100).item() == pytest.approx(0.51)


def test_p_stays_a_probability() -> None:
    """From 0 to 1 in 500 kimg, and no further."""
    p = torch.tensor(0.0, dtype=torch.float64)
    assert adapt(p, torch.tensor(0.0), 256) == 0
    for step in range(2100):
        p = adapt(p, torch.tensor(1.0), 256)
        assert (p < 1) == ((step + 1) * 256 < 500_000)
    assert p == 1


def test_the_ramp() -> None:
    ramp = RampedAugment(start=0.1, end=0.5, kimg=20)
    for nimg, p in ((0, 0.1), (5000, 0.1 + 0.4 * (1 - math.sqrt(0.5)) / 2), (10_000, 0.3)):
        assert ramp.probability(nimg) == pytest.approx(p)
    assert ramp.probability(20_000) == ramp.probability(10**9) == pytest.approx(0.5)
    assert DiffAugment(p=0.7).probability(10**6) == 0.7


@pytest.mark.parametrize("name", SPECS)
def test_specs_go_through_json(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(Augment)
    assert SPECS[name].kind == name
    assert adapter.validate_json(SPECS[name].model_dump_json()) == SPECS[name]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"kind": "diff-augment", "policy": ["color"]}, "policy"),
        ({"kind": "diff-augment", "policy": []}, "policy"),
        ({"kind": "ada", "blit": 1.5}, "blit"),
        ({"kind": "ada", "kimg": 0}, "kimg"),
        ({"kind": "ada-ramp", "end": 2}, "end"),
        ({"kind": "flip"}, "kind"),
    ],
)
def test_wrong_fields(fields: dict[str, Any], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        TypeAdapter(Augment).validate_python(fields)
