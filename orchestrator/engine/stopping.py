"""How a person asks a run to stop."""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING

from orchestrator.engine.runner import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM as requests to stop: the first after the step, the second at once.

    Args:
        say: Is told what a request leads to, inside the signal handler: it may take no lock.
    """
    stop = Stop()

    def request(number: int, frame: object) -> None:
        del number, frame
        stop.request()
        say("stopping now" if stop.hard else "finishing the running step; asking again stops at once")

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
