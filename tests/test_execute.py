"""Running checked workflows: order, lists, cache, failures."""

import math
from typing import Any, NamedTuple

import pytest
import torch

from imagen_nodes.errors import Cancelled, RunError
from imagen_nodes.graph.cache import Cache
from imagen_nodes.graph.execute import execute
from imagen_nodes.graph.node import Node, registry
from imagen_nodes.graph.sockets import Anything, ImageList, Ui
from imagen_nodes.graph.validate import validate

calls: list[str] = []
files: dict[str, int] = {}


class Number(NamedTuple):
    number: int


class Text(NamedTuple):
    text: str


class Numbers(NamedTuple):
    images: ImageList


class Shown(NamedTuple):
    ui: Ui


class One(Node):
    """A number."""

    id = "One"
    title = category = "One"
    value: int

    def run(self, host: Any) -> Number:
        calls.append(f"one {self.value}")
        assert torch.is_inference_mode_enabled()
        return Number(self.value)


class Add(Node):
    """A sum."""

    id = "Add"
    title = category = "Add"
    a: Anything
    b: Anything

    def run(self, host: Any) -> Number:
        return Number(self.a + self.b)


class Word(Node):
    """A word."""

    id = "Word"
    title = category = "Word"
    value: str

    def run(self, host: Any) -> Text:
        return Text(self.value)


class Watched(Node):
    """What a name stands for."""

    id = "Watched"
    title = category = "Watched"
    name: str

    @classmethod
    def fingerprint(cls, host: Any, values: Any) -> Any:
        if values.get("name") == "broken":
            raise PermissionError(13, "Permission denied", "broken")
        return files[values["name"]] if "name" in values else math.nan

    def run(self, host: Any) -> Number:
        calls.append(f"watched {self.name}")
        return Number(files[self.name])


class Several(Node):
    """A list of 1 to n."""

    id = "Several"
    title = category = "Several"
    n: int

    def run(self, host: Any) -> Numbers:
        return Numbers(list(range(1, self.n + 1)))


class Total(Node):
    """The sum of a list."""

    id = "Total"
    title = category = "Total"
    takes_lists = True
    values: Anything

    def run(self, host: Any) -> Number:
        return Number(sum(self.values))


class Fail(Node):
    """Fails."""

    id = "Fail"
    title = category = "Fail"
    kind: str

    def run(self, host: Any) -> Number:
        kinds = {"value": ValueError, "stop": Cancelled, "type": TypeError, "memory": MemoryError}
        if self.kind == "torch":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried\nframe #0")
        raise kinds[self.kind]("no luck")


class Show(Node):
    """Shows."""

    id = "Show"
    title = category = "Show"
    is_output = True
    value: Anything

    def run(self, host: Any) -> Shown:
        calls.append(f"show {self.value}")
        return Shown({"text": [str(self.value)]})


TYPES = registry((One, Add, Word, Watched, Several, Total, Fail, Show))


class Host:
    node_id = ""

    def choices(self, kind):
        return []

    def saved(self, ui):
        return ()


def one(value):
    return {"class_type": "One", "inputs": {"value": value}}


def add(a, b):
    return {"class_type": "Add", "inputs": {"a": [a, 0], "b": [b, 0]}}


def show(node):
    return {"class_type": "Show", "inputs": {"value": [node, 0]}}


def run(prompt, cache=None, listen=lambda event: None):
    calls.clear()
    host = Host()
    checked = validate(prompt, TYPES, host)
    return execute(checked, TYPES, host, cache or Cache(), listen)


def test_values_flow_along_links():
    results = run({"1": one(2), "2": one(3), "3": add("1", "2"), "4": show("3")})
    assert results["3"]["number"] == 5
    assert calls[-1] == "show 5"


def test_only_what_an_output_needs_runs():
    results = run({"1": one(2), "2": one(3), "3": show("1")})
    assert calls == ["one 2", "show 2"]
    assert set(results) == {"1", "3"}


def test_equal_nodes_run_once():
    results = run({"1": one(2), "2": one(2), "3": add("1", "2"), "4": show("3")})
    assert calls == ["one 2", "show 4"]
    assert results["2"]["number"] == 2


def test_a_second_run_repeats_only_what_changed():
    cache = Cache()
    prompt = {"1": one(2), "2": one(3), "3": add("1", "2"), "4": show("3")}
    run(prompt, cache)
    run({**prompt, "2": one(4)}, cache)
    assert calls == ["one 4", "show 6"]
    run(prompt, cache)  # the cache keeps the last workflow only
    assert calls == ["one 3", "show 5"]


def test_values_given_from_python_are_told_apart_by_their_content():
    """The address of one that is gone is soon another's; and its values may be changed in place."""
    cache = Cache()

    def shown(value):
        return run({"1": {"class_type": "Show", "inputs": {"value": value}}}, cache), list(calls)

    for i in range(5):
        _, called = shown(torch.full((2, 3), float(i)))
        assert called == [f"show {torch.full((2, 3), float(i))}"]
    same, again = torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    assert shown(same)[1]
    assert not shown(again)[1]
    again[1, 2] = True
    assert shown(again)[1]
    assert shown(again.view(3, 2))[1]
    for i in range(3):  # a list, of which Python shows a part
        values = torch.zeros(5000)
        values[2500] = i
        assert shown({"values": values})[1]
    for _ in range(2):  # of others it is not known
        assert shown(object())[1]


def test_what_a_node_depends_on_besides():
    """By a link it is not known before it runs: it always does. Where it cannot be looked at, that
    is the node's failure."""
    cache = Cache()
    files["a"] = 1
    direct = {"1": {"class_type": "Watched", "inputs": {"name": "a"}}, "2": show("1")}
    assert run(direct, cache)["1"]["number"] == 1
    run(direct, cache)
    assert calls == []
    files["a"] = 2
    assert run(direct, cache)["1"]["number"] == 2
    linked = {
        "0": {"class_type": "Word", "inputs": {"value": "a"}},
        "1": {"class_type": "Watched", "inputs": {"name": ["0", 0]}},
        "2": show("1"),
    }
    run(linked, cache)
    files["a"] = 3
    assert run(linked, cache)["1"]["number"] == 3
    direct["1"]["inputs"]["name"] = "broken"
    with pytest.raises(RunError, match=r"^node 1 \(Watched\): .*Permission denied") as caught:
        run(direct, cache)
    assert (caught.value.node_id, caught.value.node_type) == ("1", "Watched")


def test_results_of_the_workflow_before_are_gone_before_the_next_runs():
    """They can be large; and where it fails, too."""
    cache = Cache()
    for value in (1, 2, 3):
        fails = {"class_type": "Fail", "inputs": {"kind": "value"}}
        with pytest.raises(RunError):
            run({"1": one(value), "2": fails, "3": add("1", "2"), "4": show("3")}, cache)
        assert len(cache._entries) == 1


def test_a_list_runs_its_consumer_once_an_element():
    several = {"class_type": "Several", "inputs": {"n": 3}}
    results = run({"1": several, "2": one(10), "3": add("1", "2"), "4": show("3")})
    assert results["3"]["number"] == [11, 12, 13]
    assert calls[1:] == ["show 11", "show 12", "show 13"]


def test_a_node_that_takes_lists_is_called_once():
    several = {"class_type": "Several", "inputs": {"n": 4}}
    total = {"class_type": "Total", "inputs": {"values": ["1", 0]}}
    assert run({"1": several, "2": total, "3": show("2")})["2"]["number"] == 10


def test_an_empty_list_is_an_error():
    several = {"class_type": "Several", "inputs": {"n": 0}}
    with pytest.raises(RunError, match=r"node 3 \(Add\): input a: the list .* is empty"):
        run({"1": several, "2": one(10), "3": add("1", "2"), "4": show("3")})


NO_MEMORY = "Give it fewer or smaller pictures, or enlarge less"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("value", "no luck"),
        ("type", "TypeError: no luck"),
        ("memory", f"out of memory: no luck. {NO_MEMORY}"),
        (
            "torch",
            "out of memory: DefaultCPUAllocator: can't allocate memory: you tried. " + NO_MEMORY,
        ),
    ],
)
def test_a_failure_names_its_node(kind, text):
    fail = {"class_type": "Fail", "inputs": {"kind": kind}, "_meta": {"title": "My Node"}}
    with pytest.raises(RunError) as caught:
        run({"7": fail, "8": show("7")})
    assert str(caught.value) == f"node 7 (My Node): {text}"
    assert (caught.value.node_id, caught.value.node_type) == ("7", "Fail")


def test_cancelling_is_no_failure():
    fail = {"class_type": "Fail", "inputs": {"kind": "stop"}}
    with pytest.raises(Cancelled):
        run({"7": fail, "8": show("7")})


def test_events_come_in_order():
    events = []
    run({"1": one(2), "2": show("1")}, listen=events.append)
    assert [(e["event"], e.get("node")) for e in events] == [
        ("start", None),
        ("node", "1"),
        ("node", "2"),
        ("output", "2"),
        ("done", None),
    ]
    assert events[3]["text"] == ["2"]


def test_nothing_depends_on_the_order_in_the_file():
    prompt = {"4": show("3"), "3": add("1", "2"), "2": one(3), "1": one(2)}
    assert run(prompt)["3"]["number"] == 5
