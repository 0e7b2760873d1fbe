"""Convolutions that rectify, or add to a map, in the same pass over memory.

Where pictures go through a CPU in bfloat16, a convolution takes hardly longer than reading and
writing its maps once more does. There, in evaluation mode and without gradients, oneDNN applies
what follows to results that are still in registers, and reads weights that were rounded and brought
into the order of the matrix units once, not at every call. Everywhere else plain torch does the
same, one after the other. Results differ by the rounding in between, and where a map holds NaN or
infinity, of which oneDNN's ReLU makes 0.

Names of tensors are those of torch's own modules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Padding = str | tuple[int, ...]


class Activation(NamedTuple):
    """What follows a convolution."""

    name: Literal["none", "relu", "leaky_relu", "sigmoid"]
    slope: float = 0.0
    """Of the leaky ReLU below 0."""

    def __call__(self, x: Tensor) -> Tensor:
        """In place: no convolution's gradient needs its result."""
        if self.name == "relu":
            return x.relu_()
        if self.name == "leaky_relu":
            return F.leaky_relu(x, self.slope, inplace=True)
        return x.sigmoid_() if self.name == "sigmoid" else x


# No tanh: of the few channels of a picture, oneDNN's takes twice the time of a pass of its own.
NONE, RELU, SIGMOID = Activation("none"), Activation("relu"), Activation("sigmoid")


def leaky(slope: float) -> Activation:
    """A leaky ReLU; with a slope of 0 ReLU."""
    return Activation("leaky_relu", slope) if slope else RELU


class FusedConv2d(nn.Conv2d):
    """``[b c h w] -> [b out h' w']``."""

    def forward(
        self,
        input: Tensor,
        activation: Activation = NONE,
        onto: Tensor | None = None,
        padding: Padding | None = None,
    ) -> Tensor:
        """
        Args:
            activation: of the result.
            onto: a map of the result's shape to add it to, which may be overwritten; without an
                activation.
            padding: zeros around the map in place of its own padding, px.
        """
        if self.padding_mode == "zeros" or padding is not None:
            return convolve(self, input, activation, onto, padding=padding)
        x = padded(input, self._reversed_padding_repeated_twice, self.padding_mode)
        return convolve(self, x, activation, onto, padding=(0, 0))


class FusedConvTranspose2d(nn.ConvTranspose2d):
    """``[b c h w] -> [b out h' w']``."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None or not _fuses(self, input):
            return super().forward(input, output_size)
        x = _ready(input)
        weight, bias, *_ = _packed(self, x, self.padding)
        steps = self.padding, self.output_padding, self.stride, self.dilation, self.groups
        run = torch.ops.mkldnn._convolution_transpose_pointwise
        return run(x, weight, bias, *steps, "none", [], "")


class OneSlopePReLU(nn.PReLU):
    """A PReLU whose channels share one slope, in as many equal values as there are channels, so
    that others read its files as those of any PReLU. A convolution and this are one pass, as with a
    leaky ReLU; of one slope a channel oneDNN has none. Tensors that are loaded become their mean;
    in training all get the same gradient, and stay equal."""

    def forward(self, input: Tensor) -> Tensor:
        return F.prelu(input, self.weight.mean(0, keepdim=True))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Tensor],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}weight"
        if name in state_dict:
            given = state_dict[name]
            # Of equal values the mean may be another one, by rounding.
            if not torch.equal(given, given[:1].expand_as(given)):
                state_dict = {**state_dict, name: given.mean(0, keepdim=True).expand_as(given)}
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)


class FusedSequential(nn.Sequential):
    """As torch's, but that rectifiers are part of the :class:`FusedConv2d` before them."""

    def forward(self, input: Tensor) -> Tensor:
        x = input
        for module, after in self.steps():
            x = module(x, after) if isinstance(module, FusedConv2d) else module(x)
        return x

    def steps(self) -> Iterator[tuple[nn.Module, Activation]]:
        """Its modules, without the rectifiers that are part of the convolutions before them, and
        what follows each."""
        modules = deque(self)
        while modules:
            module = modules.popleft()
            after = _rectifier(modules[0]) if modules and isinstance(module, FusedConv2d) else None
            if after is not None:
                modules.popleft()
            yield module, after or NONE


def convolve(
    conv: nn.Conv2d,
    x: Tensor,
    activation: Activation = NONE,
    onto: Tensor | None = None,
    *,
    by: Tensor | None = None,
    padding: Padding | None = None,
    outputs: slice | None = None,
) -> Tensor:
    """``conv`` of ``[b c h w]``, as :meth:`FusedConv2d.forward` has it.

    Args:
        by: a map to multiply the result by before the activation, none or ReLU: of its shape, or
            of one value a channel, ``[b out 1 1]``.
        padding: zeros around the map, px; None: as many as the convolution says.
        outputs: which of its output channels; None: all.
    """
    pads = conv.padding if padding is None else padding
    if not _fuses(conv, x):
        weight, bias = _chosen(conv.weight, conv.bias, outputs)
        y = F.conv2d(x, weight, bias, conv.stride, pads, conv.dilation, conv.groups)
        if by is not None:
            by = by.to(y.dtype)  # of two precisions it takes five times as long
            # In place y would be copied for the gradient of by; without one that is faster.
            y = y * by if torch.is_grad_enabled() else y.mul_(by)
        return activation(y) if onto is None else y.add_(onto)
    x = _ready(x)
    weight, bias, *_ = _packed(conv, x, pads, outputs)
    steps = pads, conv.stride, conv.dilation, conv.groups
    if by is not None and by.shape[2:] == (1, 1) and not _multiplies_channels():
        y = convolve(conv, x, padding=padding, outputs=outputs)
        return activation(y.mul_(by.to(y.dtype)))
    if by is not None:
        multiply = torch.ops.mkldnn._convolution_pointwise.binary
        after = None if activation is NONE else activation.name
        return multiply(x, _ready(by), weight, bias, *steps, "mul", None, after, [], None)
    if onto is None:
        run = torch.ops.mkldnn._convolution_pointwise
        slopes = [activation.slope] if activation.name == "leaky_relu" else []
        return run(x, weight, bias, *steps, activation.name, slopes, "")
    add = torch.ops.mkldnn._convolution_pointwise_.binary
    return add(_ready(onto), x, weight, bias, *steps, "add", None, None, [], None)


def _chosen(
    weight: Tensor, bias: Tensor | None, outputs: slice | None
) -> tuple[Tensor, Tensor | None]:
    """Of all outputs they are the parameters themselves: a part of one has a gradient that is
    copied, and is cast at each call."""
    if outputs is None:
        return weight, bias
    return weight[outputs], None if bias is None else bias[outputs]


def padded(x: Tensor, border: Sequence[int], mode: str) -> Tensor:
    """:func:`torch.nn.functional.pad` in the precision that ``x`` has: on a CPU, autocast would go
    to float32 and back for it."""
    with torch.autocast("cpu", enabled=False):
        return F.pad(x, list(border), mode)


def _rectifier(module: nn.Module) -> Activation | None:
    """What a module does, if it is a rectifier without anything to learn. Elsewhere than on a CPU a
    slope is not read: that would wait for all that is under way there."""
    if isinstance(module, nn.ReLU):
        return RELU
    if isinstance(module, OneSlopePReLU):
        known = module.weight.device.type == "cpu" and not torch.is_grad_enabled()
        return leaky(float(module.weight[0])) if known else None
    return leaky(module.negative_slope) if isinstance(module, nn.LeakyReLU) else None


# ---- oneDNN -------------------------------------------------------------------------------------


class _Packed(NamedTuple):
    """Weights in oneDNN's own order, and biases."""

    weight: Tensor
    bias: Tensor | None
    tensors: list[Tensor]
    """What they were made from; held, so that no others come to lie in the same place."""
    made_for: tuple[object, ...]
    """The size that they were packed for, and the state of the tensors then."""


# Of each module, by which outputs.
_made: WeakKeyDictionary[nn.Module, dict[str, _Packed]] = WeakKeyDictionary()


def _fuses(conv: nn.Conv2d | nn.ConvTranspose2d, x: Tensor) -> bool:
    """Whether ``conv`` of ``x`` is oneDNN's here: see the top. Weights in training, or computed
    anew at each call, as with spectral norm, cannot be packed for later ones; a padding that is a
    word is torch's to work out."""
    return (
        x.device.type == "cpu"
        and x.ndim == 4
        and x.dtype in (torch.float32, torch.bfloat16)
        and not conv.training
        and not torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and not torch.compiler.is_compiling()
        and conv._parameters.get("weight") is not None
        and not isinstance(conv.padding, str)
        and _available()
    )


@cache
def _available() -> bool:
    """Whether this torch, on this processor, has what the compiler of torch itself uses."""
    if not torch.backends.mkldnn.is_available():
        return False
    names = (
        "_convolution_pointwise",
        "_convolution_pointwise_",
        "_convolution_transpose_pointwise",
        "_reorder_convolution_weight",
        "_reorder_convolution_transpose_weight",
    )
    ops = torch.ops.mkldnn
    try:
        for name in names:
            getattr(ops, name)
        return ops._is_mkldnn_bf16_supported()
    except AttributeError:
        return False


@cache
def _multiplies_channels() -> bool:
    """Whether its product takes one value a channel: torch 2.4's does not."""
    conv, x = nn.Conv2d(16, 16, 1), torch.zeros(1, 16, 4, 4, dtype=torch.bfloat16)
    multiply = torch.ops.mkldnn._convolution_pointwise.binary
    with torch.no_grad():
        weight, bias = _pack(conv, list(x.shape), (0, 0), None)
        steps = (0, 0), (1, 1), (1, 1), 1
        try:
            multiply(x, x[..., :1, :1], weight, bias, *steps, "mul", None, None, [], None)
        except RuntimeError:
            return False
    return True


def state_of(tensor: Tensor) -> tuple[int, int]:
    """Where its values lie, and how often they have been changed: while both stay, so does what was
    made from it. Changes of what was made in inference mode, and those through ``data``, are not
    counted; nothing here changes a network so after it has run."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version


def _ready(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


def _packed(
    conv: nn.Conv2d | nn.ConvTranspose2d,
    x: Tensor,
    padding: Padding,
    outputs: slice | None = None,
) -> _Packed:
    """The weights of ``conv``, or of some of its outputs, packed for maps of the size of ``x``: the
    last ones, for as long as the weights stay what they are."""
    tensors = [conv.weight] if conv.bias is None else [conv.weight, conv.bias]
    made_for = (x.shape, padding, [state_of(tensor) for tensor in tensors])
    made, key = _made.setdefault(conv, {}), str(outputs)
    packed = made.get(key)
    if packed is None or packed.made_for != made_for:
        # In another size's order a transposed convolution can take twenty times as long.
        with torch.no_grad():
            weight, bias = _pack(conv, list(x.shape), padding, outputs)
        packed = _Packed(weight, bias, [tensor.detach() for tensor in tensors], made_for)
        made[key] = packed
    return packed


def _pack(
    conv: nn.Conv2d | nn.ConvTranspose2d, shape: list[int], padding: Padding, outputs: slice | None
) -> tuple[Tensor, Tensor | None]:
    ops, steps = torch.ops.mkldnn, (conv.stride, conv.dilation, conv.groups, shape)
    weight, bias = _chosen(conv.weight, conv.bias, outputs)
    weight, bias = weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16)
    if isinstance(conv, nn.ConvTranspose2d):
        pack = ops._reorder_convolution_transpose_weight
        return pack(weight, padding, conv.output_padding, *steps), bias
    return ops._reorder_convolution_weight(weight, padding, *steps), bias
