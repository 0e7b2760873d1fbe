"""What is known of a training that has diverged."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Divergence(Exception):
    """A number is not finite: ``text`` says which, in a sentence without its end, after ``nimg``
    images."""

    def __init__(self, text: str, nimg: int) -> None:
        super().__init__(text)
        self.text = text
        self.nimg = nimg


@contextmanager
def watch(networks: Mapping[str, nn.Module]) -> Generator[list[str]]:
    """While it is entered, notes layers whose output is not finite, in the order in which they come
    up: the first, the innermost, is where it began. Waits for the device at every layer."""
    found: list[str] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        if isinstance(output, Tensor) and not output.detach().isfinite().all():
            found.append(f"{name}.{path_of[module]} ({type(module).__name__})")

    path_of: dict[nn.Module, str] = {}
    handles: list[Any] = []
    compiled = {network: network._compiled_call_impl for network in networks.values()}  # pyright: ignore
    for name, network in networks.items():
        network._compiled_call_impl = None  # compiled, its layers are no more
        for path, module in network.named_modules():
            path_of[module] = path
            hook = module.register_forward_hook(
                lambda module, _, output, name=name: note(name, module, output)
            )
            handles.append(hook)
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for network, call in compiled.items():
            network._compiled_call_impl = call
