"""Waiting, before a step begins, for what passes by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.runner import Applying

#: Between two looks.
PAUSE_S = 2.0


def waited(run: Applying, look: Callable[[], str], most_s: float) -> str:
    """What `look` still says against it after `most_s`; "" once it says nothing. It is told, and may be interrupted.

    Raises:
        Interrupted: Somebody asked to stop.
    """
    end = run.clock.now() + most_s
    while (why := look()) and run.clock.now() < end:
        run.waiting()
        run.emit("gate.waiting", why=why)
        run.clock.sleep(PAUSE_S)
    return why
