"""Where a training's time goes, and what this machine could do at best.

A step's time is split twice, both times without rest: over its parts (data, each network's forward
and backward pass, optimiser, average) and over kinds of operators. Both come from torch's profiler,
whose records are exact where timing by hand would have to stop a GPU between the parts:

* On a CPU an operator counts with the time spent in it alone. The profiler's own cost, some
  microseconds an operator, is in it: ``Profile.seconds`` is measured without.
* On a GPU it counts with its kernels' time; what remains of the step is "idle": the GPU waits for
  the program, for data first of all.

A backward operator belongs to the network whose forward operator it differentiates, whoever's loss
it is for: the generator's update has a part in the discriminator's backward pass.
"""

from __future__ import annotations

import os
import re
import time
from collections import defaultdict
from collections.abc import Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from .arithmetic import CountProducts, measure_rates, synchronise
from .loop import Loop

STEP, DATA, OPTIMISER, EMA, REST, IDLE = "step", "data", "optimiser", "EMA", "the rest", "idle"
FORWARD, BACKWARD = "{} forward", "{} backward"
# Names our ranges in the profiler's records.
MARK = "imagen: "
BACKWARD_NODE = "autograd::engine::evaluate_function"
BACKWARD_SCOPE = 1  # at::RecordScope::BACKWARD_FUNCTION

UPDATES, OVERHEAD, ELEMENTWISE = "optimiser and EMA", "Python and autograd", "elementwise"
CONVOLUTIONS, PRODUCTS = "convolutions", "matrix products"
NORMALISATION, COPIES = "normalisation", "memory copies"
# The first that matches an operator's name; torch's others are elementwise (or sums).
GROUPS = (
    (OVERHEAD, r"^(?!aten::)"),  # our ranges, autograd's nodes: their own time is Python's
    (CONVOLUTIONS, r"conv"),
    (PRODUCTS, r"::(\w*mm|\w*mv|matmul|linear|dot|einsum)$|attention"),
    (NORMALISATION, r"(batch|layer|group|instance|rms)_norm"),
    (COPIES, r"copy|clone|contiguous|::(to|cat|stack|pad|constant_pad_nd|empty\w*|zero_|fill_)$"),
    (COPIES, r"index|gather|scatter"),
    (OVERHEAD, r"::(as_strided|\w*view\w*|\w*reshape\w*|permute|t|transpose|slice|select|expand)$"),
    (OVERHEAD, r"::(squeeze|unsqueeze|unbind|split|chunk|narrow|detach|alias|resolve_\w+)_?$"),
)
MEMORY = "{} take the largest part: memory, not arithmetic, is the limit."
LIMITS = {
    DATA: "Reading the data takes the largest part: keep it smaller, or nearer.",
    IDLE: "The GPU waits for the program to hand it work: a larger batch gives it more at a time.",
    UPDATES: "Updating the weights takes the largest part: a larger batch has fewer updates.",
    OVERHEAD: "Python and autograd take the largest part: a larger batch or larger networks would "
    "cost little more.",
    ELEMENTWISE: MEMORY.format("Elementwise operators"),
    NORMALISATION: MEMORY.format("Normalisations"),
    COPIES: MEMORY.format("Copies"),
}
AT_LIMIT = (
    "Arithmetic takes the largest part, and runs at the machine's rate or near it: only smaller "
    "networks, fewer steps or a faster machine save time."
)
BELOW_LIMIT = (
    "Arithmetic takes the largest part, but at a low rate: these layers are too small or too thin "
    "for this machine; wider ones or a larger batch would cost less than in proportion."
)
OTHER_TYPE = "Most of the arithmetic is {}, where this machine reaches 1/{:.1f} of its {} rate."
# Of the machine's rate: from here on arithmetic is at its limit.
NEAR = 0.5
# Times the rate, from which on another type is worth a word.
FASTER = 1.3


@dataclass(frozen=True)
class Profile:
    """A step's time in seconds, its arithmetic in floating point operations (two for each
    multiplication with its addition) by type, and the machine's rates, operations a second."""

    device: torch.device
    batch: int
    steps: int
    seconds: float
    """Of a step, without the profiler."""
    parts: dict[str, float]
    """Seconds by part; their sum is a step's time, on a CPU with the profiler's cost in it."""
    groups: dict[str, float]
    """The same by kind of operator."""
    flops: dict[torch.dtype, float]
    rates: dict[tuple[str, torch.dtype], float]

    @property
    def share(self) -> float:
        """How much of a step its arithmetic would take at the machine's best measured rates."""
        return self._at_best() / self.seconds

    @property
    def limit(self) -> str:
        """What limits the training, in a sentence."""
        arithmetic = self.groups[CONVOLUTIONS] + self.groups[PRODUCTS]
        largest = max(LIMITS, key=lambda name: self.groups.get(name, 0.0))
        if self.groups.get(largest, 0.0) > arithmetic:
            return LIMITS[largest]
        best, used = self._best(), max(self.flops, key=lambda dtype: self.flops[dtype])
        fastest = max(best, key=lambda dtype: best[dtype])
        if used in best and best[fastest] >= FASTER * best[used]:
            return OTHER_TYPE.format(_name(used), best[fastest] / best[used], _name(fastest))
        of_time = arithmetic / sum(self.groups.values())
        return AT_LIMIT if self.share >= NEAR * of_time else BELOW_LIMIT

    def _at_best(self) -> float:
        best = self._best()
        # A type that was not measured counts as float32.
        return sum(n / best.get(dtype, best[torch.float32]) for dtype, n in self.flops.items())

    def _best(self) -> dict[torch.dtype, float]:
        dtypes = {dtype for _, dtype in self.rates}
        return {
            d: max(rate for (_, dtype), rate in self.rates.items() if dtype == d) for d in dtypes
        }


def profile(loop: Loop, steps: int = 8, seconds: float = 0.3) -> Profile:
    """Step ``loop`` and measure: ``steps`` steps to warm up, as many for the time, for the
    profiler's records and for the count. The training goes on meanwhile, so hand it a throw-away
    loop. Where some steps do more than others (penalties every 16th, say), let ``steps`` be a
    multiple of that. ``seconds`` of each measurement of the machine's rates."""
    assert steps > 0
    for _ in range(steps):
        loop.step()
    elapsed = _timed(loop, steps)
    events = _records(loop, steps)
    with CountProducts() as count:
        for _ in range(steps):
            loop.step()
    parts, groups = _split(events, loop.device, elapsed * steps)
    return Profile(
        loop.device,
        loop.recipe.batch,
        steps,
        elapsed,
        {name: part / steps for name, part in parts.items()},
        {name: group / steps for name, group in groups.items()},
        {dtype: flops / steps for dtype, flops in count.flops.items()},
        measure_rates(loop.device, seconds),
    )


def _timed(loop: Loop, steps: int) -> float:
    """Seconds of a step."""
    synchronise(loop.device)
    start = time.perf_counter()
    for _ in range(steps):
        loop.step()
    synchronise(loop.device)
    return (time.perf_counter() - start) / steps


# ------------------------------------------------------------------------------ records


def _records(loop: Loop, steps: int) -> list[FunctionEvent]:
    """The profiler's records of ``steps`` steps, with ranges that say which part is which."""
    # Otherwise its library says on stderr that it starts, and that it found no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU]
    if loop.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with _marked(loop), torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            with record_function(MARK + STEP):
                loop.step()
        synchronise(loop.device)
    return list(profiler.events() or ())


@contextmanager
def _marked(loop: Loop) -> Generator[None]:
    """Inside, data, average and the networks' forward passes leave ranges in the records; the
    optimisers do so by themselves."""
    with ExitStack() as stack:
        stack.enter_context(_marked_method(loop.data, "batch", DATA))
        for average in loop.averages:
            stack.enter_context(_marked_method(average, "update", EMA))
        for name, network in loop.networks.items():
            # Its parts too: a loss may call one alone, as a mapping network.
            for module in (network, *network.children()):
                stack.enter_context(_marked_module(module, FORWARD.format(name)))
        yield


@contextmanager
def _marked_method(owner: Any, method: str, part: str) -> Generator[None]:
    original = getattr(owner, method)

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(MARK + part):
            return original(*args, **kwargs)

    setattr(owner, method, marked)  # over the class's
    try:
        yield
    finally:
        delattr(owner, method)


@contextmanager
def _marked_module(module: nn.Module, part: str) -> Generator[None]:
    ranges: list[record_function] = []

    def enter(*_: Any) -> None:
        ranges.append(record_function(MARK + part))
        ranges[-1].__enter__()

    def leave(*_: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    hooks = (
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


# ------------------------------------------------------------------------------ sums


def _split(
    events: Iterable[FunctionEvent], device: torch.device, elapsed: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds by part and by group of all the steps, which took ``elapsed`` without profiler."""
    on_cpu = device.type == "cpu"
    parts: defaultdict[str, float] = defaultdict(float)
    groups: defaultdict[str, float] = defaultdict(float, {name: 0.0 for name, _ in GROUPS})
    reading = 0.0  # on the CPU, whatever the device
    for event, part in _parts(events):
        own = (event.self_cpu_time_total if on_cpu else _kernels(event)) / 1e6
        parts[part] += own
        groups[_group(event.name, part)] += own
        if part == DATA:
            reading += event.self_cpu_time_total / 1e6
    if not on_cpu:
        idle = max(elapsed - sum(parts.values()), 0.0)
        reading = min(reading, idle)
        for sums in (parts, groups):
            sums[DATA] += reading
            sums[IDLE] += idle - reading
    return dict(parts), dict(groups)


def _kernels(event: FunctionEvent) -> float:
    """Microseconds of the kernels that an operator started itself. A range may list itself among
    them, over all kernels inside, under its own name."""
    return sum(kernel.duration for kernel in event.kernels if kernel.name != event.name)


def _group(name: str, part: str) -> str:
    if part == DATA:
        return DATA
    if part in (OPTIMISER, EMA):
        return UPDATES
    return next((group for group, pattern in GROUPS if re.search(pattern, name)), ELEMENTWISE)


def _parts(events: Iterable[FunctionEvent]) -> Generator[tuple[FunctionEvent, str]]:
    """Each operator inside a step, or in a backward pass's thread, with its part."""
    cpu = torch.autograd.DeviceType.CPU  # pyright: ignore[reportPrivateImportUsage]
    on_cpu = [event for event in events if event.device_type == cpu and not event.is_async]
    ordered = sorted(on_cpu, key=lambda e: (e.time_range.start, -e.time_range.end))
    known: dict[int, str | None] = {}  # by id(event)
    # The part in which an autograd node was made, by thread and number. An operator carries the
    # number that the next node will have, so the last one with a number made the node.
    made: dict[tuple[int | None, int], str] = {}
    for event in ordered:
        parent = event.cpu_parent
        around = known.get(id(parent)) if parent is not None else None
        part = _part(event, around, made)
        known[id(event)] = part
        if part is None:
            continue
        if event.sequence_nr >= 0 and not _is_backward(event):
            made[event.thread, event.sequence_nr] = part
        yield event, part


def _part(
    event: FunctionEvent, around: str | None, made: dict[tuple[int | None, int], str]
) -> str | None:
    """The part of an event inside ``around``; None: outside of all steps."""
    if event.name.startswith(MARK):
        name = event.name.removeprefix(MARK)
        return REST if name == STEP else name
    if event.name.startswith("Optimizer."):
        return OPTIMISER
    if event.name.startswith(BACKWARD_NODE):
        forward = made.get((event.fwd_thread, event.sequence_nr), REST)
        network, _, kind = forward.rpartition(" ")
        return BACKWARD.format(network) if kind in ("forward", "backward") else forward
    return around


def _is_backward(event: FunctionEvent) -> bool:
    """A node that autograd runs carries its own number, not the next one's."""
    return event.name.startswith(BACKWARD_NODE) or event.scope == BACKWARD_SCOPE


# ------------------------------------------------------------------------------ text


def render(profile: Profile) -> str:
    """The profile as text of some 30 lines."""
    lines = [
        f"a step of {profile.batch} images takes {_milliseconds(profile.seconds)} on "
        f"{profile.device}: {profile.batch / profile.seconds:.1f} img/s, {profile.steps} steps",
        *_table("part of the step", profile.parts),
        *_table("kind of operator", profile.groups),
        *_arithmetic(profile),
        "",
        profile.limit,
    ]
    return "\n".join(lines)


def _table(title: str, seconds: dict[str, float]) -> list[str]:
    whole = sum(seconds.values())
    rows = sorted(seconds.items(), key=lambda row: -row[1])
    return [
        "",
        f"{title:28} {'time':>10} {'share':>6}",
        *(f"{name:28} {_milliseconds(s):>10} {s / whole:6.1%}" for name, s in rows),
        f"{'sum':28} {_milliseconds(whole):>10}",
    ]


def _arithmetic(profile: Profile) -> list[str]:
    flops = sum(profile.flops.values())
    types = ", ".join(f"{_name(t)} {n / 1e9:.3g}" for t, n in profile.flops.items())
    rates = {
        f"{_name(dtype)} {work}": f"{rate / 1e9:10,.1f} GFLOP/s"
        for (work, dtype), rate in profile.rates.items()
    }
    return [
        "",
        f"arithmetic of a step: {flops / 1e9:.3g} GFLOP ({types})",
        f"{'reached':28} {flops / profile.seconds / 1e9:10,.1f} GFLOP/s, {profile.share:.0%} of "
        "what this machine can:",
        *(f"  {name:26} {rate}" for name, rate in rates.items()),
    ]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
