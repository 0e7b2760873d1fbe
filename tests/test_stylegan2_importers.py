"""StyleGAN2 files: NVIDIA's PyTorch and TensorFlow pickles, rosinality's checkpoints."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from imagen_nodes import checkpoint
from imagen_nodes.__main__ import main

from .importing import (
    FILTER,
    EasyDict,
    Holder,
    close,
    imported,
    modulated,
    normalised,
    persistent,
    random,
    resampled,
    varied,
)

WIDTHS = {4: 12, 8: 12, 16: 6}


def nvidia_shapes(classes: int, residual: bool = False) -> Holder:
    shapes: dict[str, tuple[int, ...]] = {}
    buffers = {"mapping.w_avg": torch.zeros(10)}
    for i, inputs in enumerate((8 + 10 * bool(classes), 10)):
        shapes |= {f"mapping.fc{i}.weight": (10, inputs), f"mapping.fc{i}.bias": (10,)}
    if classes:
        shapes |= {"mapping.embed.weight": (10, classes), "mapping.embed.bias": (10,)}
    shapes["synthesis.b4.const"] = (12, 4, 4)
    for side, width in WIDTHS.items():
        block, below = f"synthesis.b{side}", WIDTHS.get(side // 2, width)
        buffers[f"{block}.resample_filter"] = FILTER
        for conv, inputs in (("conv0", below), ("conv1", width)):
            if side == 4 and conv == "conv0":
                continue
            name = f"{block}.{conv}"
            shapes |= {
                f"{name}.weight": (width, inputs, 3, 3), f"{name}.bias": (width,),
                f"{name}.affine.weight": (inputs, 10), f"{name}.affine.bias": (inputs,),
                f"{name}.noise_strength": (),
            }  # fmt: skip
            buffers |= {
                f"{name}.noise_const": torch.zeros(side, side), f"{name}.resample_filter": FILTER
            }  # fmt: skip
        if residual and side > 4:
            shapes[f"{block}.skip.weight"] = (width, below, 1, 1)
        if not residual or side == 16:
            shapes |= {
                f"{block}.torgb.weight": (3, width, 1, 1), f"{block}.torgb.bias": (3,),
                f"{block}.torgb.affine.weight": (width, 10), f"{block}.torgb.affine.bias": (width,),
            }  # fmt: skip
    return Holder(shapes, buffers)


def nvidia(w: dict[str, Tensor], z: Tensor, labels: Any, clamp: float = 0.0) -> Tensor:
    """The generator of stylegan2-ada-pytorch."""

    def dense(x: Tensor, name: str, lr: float = 1.0) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), w[f"{name}.bias"] * lr)

    def act(x: Tensor, gain: float = 1.0) -> Tensor:
        x = F.leaky_relu(x, 0.2) * math.sqrt(2) * gain
        return x.clamp(-clamp * gain, clamp * gain) if clamp else x

    x = normalised(z)
    if labels is not None:
        one_hot = F.one_hot(labels, w["mapping.embed.weight"].shape[1]).float()
        x = torch.cat([x, normalised(dense(one_hot, "mapping.embed"))], 1)
    for i in range(2):
        x = F.leaky_relu(dense(x, f"mapping.fc{i}", 0.01), 0.2) * math.sqrt(2)
    v, image = x, None
    x = w["synthesis.b4.const"][None].expand(len(z), -1, -1, -1)
    residual = "synthesis.b16.skip.weight" in w
    for side in WIDTHS:
        block = f"synthesis.b{side}"
        gain = math.sqrt(0.5) if residual and side > 4 else 1.0
        if gain != 1:
            skip = w[f"{block}.skip.weight"] / math.sqrt(x.shape[1])
            past = F.conv2d(resampled(x, 2, (2, 1), 4.0), skip) * gain
        for conv in ("conv0", "conv1") if side > 4 else ("conv1",):
            name = f"{block}.{conv}"
            style = dense(v, f"{name}.affine")
            x = modulated(x, w[f"{name}.weight"], style, conv == "conv0", True)
            x = x + w[f"{name}.noise_const"] * w[f"{name}.noise_strength"]
            last = gain if conv == "conv1" else 1.0
            x = act(x + w[f"{name}.bias"][:, None, None], last)
        x = x + past if gain != 1 else x
        if f"{block}.torgb.weight" in w:
            style = dense(v, f"{block}.torgb.affine") / math.sqrt(x.shape[1])
            own = modulated(x, w[f"{block}.torgb.weight"], style, False, False)
            own = own + w[f"{block}.torgb.bias"][:, None, None]
            own = own.clamp(-clamp, clamp) if clamp else own
            image = own if image is None else resampled(image, 2, (2, 1), 4.0) + own
    assert image is not None
    return image


@pytest.mark.usefixtures("persistence")
@pytest.mark.parametrize(
    ("classes", "residual", "clamp"), [(0, False, 0), (3, False, 0.8), (0, True, 0)]
)
def test_nvidias_pickles(place: Path, classes: int, residual: bool, clamp: float) -> None:
    network = varied(nvidia_shapes(classes, residual), 0.7)
    kwargs = {"synthesis_kwargs": {"conv_clamp": clamp or None, "num_fp16_res": 4}}
    content = {
        "G": persistent(varied(nvidia_shapes(classes, residual), 0.1), **kwargs),
        "D": None,
        "G_ema": persistent(network, **kwargs),
        "training_set_kwargs": {"path": "x"},
    }
    Path("theirs.pkl").write_bytes(pickle.dumps(content))
    ours = imported(file="theirs.pkl")
    z = torch.randn(2, 8, generator=random())
    labels = torch.tensor([2, 0]) if classes else None
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close(ours(z, labels), nvidia(w, z, labels, clamp))
    assert torch.equal(ours.w_avg, network.mapping.w_avg)
    card = checkpoint.inspect(Path("ours.safetensors")).card
    assert card.description == (
        "Imported from theirs.pkl (StyleGAN2 of NVIDIA's PyTorch code, G_ema)."
    )


@pytest.mark.usefixtures("persistence")
def test_nvidias_arguments_in_their_own_dictionaries(place: Path) -> None:
    network = varied(nvidia_shapes(0), 0.7)
    kwargs = {"synthesis_kwargs": EasyDict(conv_clamp=0.8, num_fp16_res=4)}
    Path("theirs.pkl").write_bytes(pickle.dumps({"G_ema": persistent(network, **kwargs)}))
    assert imported(file="theirs.pkl").synthesis.blocks["16"].conv1.clamp == 0.8


class Network:
    """Pickles as ``dnnlib.tflib.network.Network`` does: its state, in which source text lies."""

    def __init__(self, variables: dict[str, Tensor], **components: Network) -> None:
        self.state = {
            "version": 4, "static_kwargs": {}, "build_module_src": "raise SystemExit('run')",
            "components": components,
            "variables": [(name, value.numpy()) for name, value in variables.items()],
        }  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.state


@pytest.mark.parametrize(
    ("residual", "classes", "clamp", "first"),
    [
        (False, 0, None, False),
        (True, 0, None, False),
        (True, 3, 0.8, False),
        (False, 3, None, True),
    ],
)
def test_nvidias_tensorflow_pickles(
    place: Path, residual: bool, classes: int, clamp: float | None, first: bool
) -> None:
    """``first``: labels as in the first release."""
    r = random(11)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=r)

    mapping = {}
    embedded = (8 if first else 10) * bool(classes)
    for i, inputs in enumerate((8 + embedded, 10)):
        mapping |= {f"Dense{i}/weight": drawn(inputs, 10), f"Dense{i}/bias": drawn(10)}
    if first:
        mapping["LabelConcat/weight"] = drawn(classes, 8)
    elif classes:
        mapping |= {"LabelEmbed/weight": drawn(classes, 10), "LabelEmbed/bias": drawn(10)}
    synthesis = {"4x4/Const/const": drawn(1, 12, 4, 4), "lod": drawn()}
    number = 0
    for side, width in WIDTHS.items():
        below = WIDTHS.get(side // 2, width)
        convs = [("Conv", width)] if side == 4 else [("Conv0_up", below), ("Conv1", width)]
        for conv, inputs in convs:
            name = f"{side}x{side}/{conv}"
            synthesis |= {
                f"{name}/weight": drawn(3, 3, inputs, width), f"{name}/bias": drawn(width),
                f"{name}/noise_strength": drawn(), f"noise{number}": drawn(1, 1, side, side),
                f"{name}/mod_weight": drawn(10, inputs), f"{name}/mod_bias": drawn(inputs),
            }  # fmt: skip
            number += 1
        if residual and side > 4:
            synthesis[f"{side}x{side}/Skip/weight"] = drawn(1, 1, below, width)
        if not residual or side == 16:
            name = f"{side}x{side}/ToRGB"
            synthesis |= {
                f"{name}/weight": drawn(1, 1, width, 3), f"{name}/bias": drawn(3),
                f"{name}/mod_weight": drawn(10, width), f"{name}/mod_bias": drawn(width),
            }  # fmt: skip
    whole = Network(
        {"dlatent_avg": drawn(10)}, mapping=Network(mapping), synthesis=Network(synthesis)
    )
    whole.state["static_kwargs"] = {"label_size": classes, "conv_clamp": clamp}
    content = pickle.dumps((None, None, whole), protocol=2)
    name = f"c{Network.__module__}\nNetwork\n".encode()
    assert name in content
    Path("theirs.pkl").write_bytes(content.replace(name, b"cdnnlib.tflib.network\nNetwork\n"))
    ours = imported(file="theirs.pkl")
    z, labels = drawn(2, 8), torch.tensor([2, 0]) if classes else None
    close(ours(z, labels), tensorflow(mapping, synthesis, z, labels, clamp))


def tensorflow(
    mapping: dict[str, Tensor],
    w: dict[str, Tensor],
    z: Tensor,
    labels: Tensor | None = None,
    clamp: float | None = None,
) -> Tensor:
    """The first releases' operations: matrices [in out], kernels [h w in out]."""
    v = normalised(z)
    if labels is not None and "LabelConcat/weight" in mapping:
        v = normalised(torch.cat([z, mapping["LabelConcat/weight"][labels]], 1))
    elif labels is not None:
        embed = mapping["LabelEmbed/weight"] / math.sqrt(3)
        v = torch.cat([v, normalised(embed[labels] + mapping["LabelEmbed/bias"])], 1)

    def clamped(x: Tensor, gain: float = 1.0) -> Tensor:
        return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)

    for i in (0, 1):
        weight = mapping[f"Dense{i}/weight"]
        x = v @ (weight * 0.01 / math.sqrt(len(weight))) + mapping[f"Dense{i}/bias"] * 0.01
        v = F.leaky_relu(x, 0.2) * math.sqrt(2)
    x, image, number = w["4x4/Const/const"].expand(len(z), -1, -1, -1), None, 0
    residual = "16x16/Skip/weight" in w

    def modulated_tf(x: Tensor, name: str, up: bool, demodulate: bool) -> Tensor:
        weight = w[f"{name}/weight"]
        style = v @ (w[f"{name}/mod_weight"] / math.sqrt(10)) + w[f"{name}/mod_bias"] + 1
        kernels = weight[None] * style[:, None, None, :, None] / math.sqrt(weight[..., 0].numel())
        if demodulate:
            kernels = kernels * (kernels.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        images = []
        for one, kernel in zip(x, kernels.permute(0, 4, 3, 1, 2), strict=True):
            one = one[None]
            if up:  # zeros between the pixels, and the kernel as it is
                b, c, h, side = one.shape
                spread = one.new_zeros(b, c, 2 * h - 1, 2 * side - 1)
                spread[:, :, ::2, ::2] = one
                y = resampled(F.conv2d(spread, kernel, padding=2), 1, (1, 1), 4.0)
            else:
                y = F.conv2d(one, kernel, padding=kernel.shape[2] // 2)
            images.append(y)
        return torch.cat(images)

    for side in WIDTHS:
        past = None
        if residual and side > 4:
            skip = w[f"{side}x{side}/Skip/weight"]
            past = F.conv2d(
                resampled(x, 2, (2, 1), 4.0), skip.permute(3, 2, 0, 1) / math.sqrt(x.shape[1])
            )
        for conv in ("Conv",) if side == 4 else ("Conv0_up", "Conv1"):
            name = f"{side}x{side}/{conv}"
            x = modulated_tf(x, name, conv == "Conv0_up", True)
            x = x + w[f"noise{number}"] * w[f"{name}/noise_strength"]
            x = F.leaky_relu(x + w[f"{name}/bias"][:, None, None], 0.2) * math.sqrt(2)
            x = clamped(x)
            number += 1
        x = x if past is None else (x + past) * math.sqrt(0.5)
        if f"{side}x{side}/ToRGB/weight" in w:
            own = modulated_tf(x, f"{side}x{side}/ToRGB", False, False)
            own = clamped(own + w[f"{side}x{side}/ToRGB/bias"][:, None, None])
            image = own if image is None else resampled(image, 2, (2, 1), 4.0) + own
    assert image is not None
    return image


def rosinality_shapes() -> Holder:
    shapes: dict[str, tuple[int, ...]] = {"input.input": (1, 12, 4, 4)}
    buffers: dict[str, Tensor] = {}
    for i, inputs in enumerate((8, 8), 1):
        shapes |= {f"style.{i}.weight": (8, inputs), f"style.{i}.bias": (8,)}
    convs = {"conv1": (12, 12), "convs.0": (12, 12), "convs.1": (12, 12), "convs.2": (12, 6)}
    convs["convs.3"] = (6, 6)
    for n, (name, (inputs, outputs)) in enumerate(convs.items()):
        shapes |= {
            f"{name}.conv.weight": (1, outputs, inputs, 3, 3),
            f"{name}.conv.modulation.weight": (inputs, 8),
            f"{name}.conv.modulation.bias": (inputs,),
            f"{name}.noise.weight": (1,), f"{name}.activate.bias": (outputs,),
        }  # fmt: skip
        side = 4 << ((n + 1) // 2)
        buffers[f"noises.noise_{n}"] = torch.zeros(1, 1, side, side)
        if name in ("convs.0", "convs.2"):
            buffers[f"{name}.conv.blur.kernel"] = FILTER * 4
    for name, inputs in (("to_rgb1", 12), ("to_rgbs.0", 12), ("to_rgbs.1", 6)):
        shapes |= {
            f"{name}.bias": (1, 3, 1, 1), f"{name}.conv.weight": (1, 3, inputs, 1, 1),
            f"{name}.conv.modulation.weight": (inputs, 8),
            f"{name}.conv.modulation.bias": (inputs,),
        }  # fmt: skip
    return Holder(shapes, buffers)


def rosinality(w: dict[str, Tensor], z: Tensor) -> Tensor:
    def equal(x: Tensor, name: str, lr: float) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.linear(x, weight * lr / math.sqrt(weight.shape[1]), w[f"{name}.bias"] * lr)

    v = normalised(z)
    for i in (1, 2):
        v = F.leaky_relu(equal(v, f"style.{i}", 0.01), 0.2) * math.sqrt(2)
    x, image = w["input.input"].expand(len(z), -1, -1, -1), None
    for n, name in enumerate(("conv1", "convs.0", "convs.1", "convs.2", "convs.3")):
        weight = w[f"{name}.conv.weight"][0]
        scaled = weight / math.sqrt(weight[0].numel())
        style = equal(v, f"{name}.conv.modulation", 1.0)
        x = modulated(x, scaled, style, n in (1, 3), True)
        x = x + w[f"noises.noise_{n}"] * w[f"{name}.noise.weight"]
        bias = w[f"{name}.activate.bias"][:, None, None]
        x = F.leaky_relu(x + bias, 0.2) * math.sqrt(2)
        if n % 2 == 0:
            rgb = "to_rgb1" if n == 0 else f"to_rgbs.{n // 2 - 1}"
            style = equal(v, f"{rgb}.conv.modulation", 1.0)
            weight = w[f"{rgb}.conv.weight"][0] / math.sqrt(x.shape[1])
            own = modulated(x, weight, style, False, False) + w[f"{rgb}.bias"]
            image = own if image is None else resampled(image, 2, (2, 1), 4.0) + own
    assert image is not None
    return image


@pytest.mark.parametrize("average", [False, True])
def test_rosinalitys_checkpoints(place: Path, average: bool, capsys: Any) -> None:
    import argparse

    network = varied(rosinality_shapes(), 0.7)
    content: dict[str, Any] = {
        "g": rosinality_shapes().state_dict(),
        "g_ema": network.state_dict(),
        "args": argparse.Namespace(size=16),
        "ada_aug_p": 0.0,
    }
    if average:
        content["latent_avg"] = torch.randn(8, generator=random(3))
    torch.save(content, "theirs.pth")
    ours = imported()
    z = torch.randn(2, 8, generator=random())
    w = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    close(ours(z), rosinality(w, z))
    if average:
        assert torch.equal(ours.w_avg, content["latent_avg"])
    else:
        assert "no average of w" in capsys.readouterr().out
        many = ours.mapping(torch.randn(20_000, 8, generator=random(9))).mean(0)
        torch.testing.assert_close(ours.w_avg, many, rtol=0.2, atol=0.05)


def test_damaged_names(place: Path, capsys: Any) -> None:
    """Tensors of a format's names, in shapes that cannot be."""
    state = rosinality_shapes().state_dict()
    state["convs.3.conv.weight"] = torch.zeros(3)
    torch.save({"g_ema": state}, "theirs.pth")
    assert main(["import", "theirs.pth", "-o", "ours.safetensors"]) == 1
    assert "no known format" in capsys.readouterr().err
