"""What people or programs read of work that goes on: a progress bar, or one JSON event a line."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Self

from tqdm import tqdm

# What everything in the package logs to.
LOG = logging.getLogger(__package__)
# Of times that are shown, s: 30 years.
LONGEST = 1e9


def duration(seconds: float) -> timedelta:
    """A time to be shown, rounded, of 0 to 30 years."""
    return timedelta(seconds=round(min(max(seconds, 0), LONGEST)))


class Console(logging.Handler):
    """Shows the events of a run, and as warnings what its nodes log. For people: a bar on a
    terminal (none when piped) and a line for each file; with ``json``: every event as it comes."""

    def __init__(self, *, json: bool) -> None:
        super().__init__(logging.WARNING)
        self.json = json
        self._bar: tqdm[Any] | None = None
        self._node = ""

    def __enter__(self) -> Self:
        LOG.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        LOG.removeHandler(self)
        self._close()

    def emit(self, record: logging.LogRecord) -> None:
        self.warn([self._node + record.getMessage()])

    def warn(self, warnings: Iterable[str]) -> None:
        """Say what is odd but no error."""
        for warning in warnings:
            if self.json:
                print(json.dumps({"event": "warning", "message": warning}), flush=True)
            else:
                tqdm.write(f"warning: {warning}", file=sys.stderr)

    def listen(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if event["event"] == "node":
            self._node = f"node {event['node']} ({event['title']}): "
        if self.json:
            print(json.dumps(event, default=str), flush=True)
            return
        match event["event"]:
            case "start":
                piped = not sys.stderr.isatty()
                self._bar = tqdm(total=event["nodes"], unit="node", disable=piped, leave=False)
            case "node" if self._bar is not None:
                self._bar.set_description(event["title"], refresh=False)
                self._bar.update(1)
            case "progress" if self._bar is not None:
                self._bar.set_postfix_str(f"{event['done']}/{event['total']}")
            case "output":
                for file in event["files"]:
                    tqdm.write(file)
                for text in event.get("text", ()):
                    tqdm.write(str(text))
            case _:
                pass

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()


@contextmanager
def progress_bar() -> Generator[Callable[[int, int], None]]:
    """Shows pictures done and in all, where there is a terminal; gone when it is left."""
    with tqdm(unit="img", disable=not sys.stderr.isatty(), leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress
