"""Work that goes on beside one another, with one place where its results arrive.

The port lets a test run everything in one thread, on a clock of its own.
"""

from __future__ import annotations

import queue
import threading
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType


@dataclass(frozen=True, slots=True)
class Raised:
    """Something failed beside: what it was submitted as, and how."""

    name: str
    error: Exception


class Crew(Protocol):
    """Runs functions and follows iterators beside the caller. A context manager: leaving it ends all of it."""

    def __enter__(self) -> Self:
        """Itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything that still goes on."""
        ...

    def submit(self, name: str, work: Callable[[], Any]) -> None:
        """Have `work` run; what it returns arrives at `take`, what it raises as Raised."""
        ...

    def follow(self, name: str, source: AbstractContextManager[Iterator[Any]]) -> None:
        """Have every item of `source` arrive at `take`, until the crew is left."""
        ...

    def take(self, timeout_s: float) -> Any | None:
        """The next thing that arrived, or None after `timeout_s` without any. 0 does not wait."""
        ...


class Threads:
    """A crew of daemon threads, started when they are needed, at most `size` for submitted work.

    Daemons: a request to a server that never answers must not keep the process from ending.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[tuple[str, Callable[[], Any]] | None] = queue.SimpleQueue()
        self._workers = 0
        self._outstanding = 0
        self._sources = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sources.close()
        for _ in range(self._workers):
            self._work.put(None)

    def submit(self, name: str, work: Callable[[], Any]) -> None:
        """Have `work` run by a thread."""
        self._outstanding += 1
        if self._workers < min(self._size, self._outstanding):
            self._workers += 1
            threading.Thread(target=self._labour, name=f"crew-{self._workers}", daemon=True).start()
        self._work.put((name, work))

    def follow(self, name: str, source: AbstractContextManager[Iterator[Any]]) -> None:
        """Have a thread of its own read `source`."""
        items = self._sources.enter_context(source)
        threading.Thread(target=self._forward, args=(name, items), name=name, daemon=True).start()

    def take(self, timeout_s: float) -> Any | None:
        """The next thing that arrived, or None."""
        try:
            item = self._arrived.get(timeout=timeout_s) if timeout_s > 0 else self._arrived.get_nowait()
        except queue.Empty:
            return None
        labour, item = item
        self._outstanding -= labour
        return item

    def _labour(self) -> None:
        while (job := self._work.get()) is not None:
            name, work = job
            self._arrived.put((1, _outcome(name, work)))

    def _forward(self, name: str, items: Iterator[Any]) -> None:
        try:
            for item in items:
                self._arrived.put((0, item))
        except Exception as err:  # noqa: BLE001  a thread must hand over a bug, not die of it
            self._arrived.put((0, Raised(name, err)))


def _outcome(name: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as err:  # noqa: BLE001  handed to whoever takes it, who raises it
        return Raised(name, err)
