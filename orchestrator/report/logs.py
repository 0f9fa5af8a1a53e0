"""Progress for programs, on stderr: one JSON object a line, by structlog."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from orchestrator.engine.events import Event


class JsonLines:
    """A sink of JSON lines: `event`, `level`, `at` (RFC 3339, UTC) and the event's own fields."""

    def __init__(self, stream: TextIO) -> None:
        import structlog  # noqa: PLC0415  slow to import, and only wanted with --log-format json

        self._log = structlog.wrap_logger(
            structlog.PrintLogger(stream),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
                structlog.processors.JSONRenderer(sort_keys=True),
            ],
        )

    def emit(self, event: Event) -> None:
        """Write `event`; a stream that is gone must not stop the run."""
        try:
            getattr(self._log, event.level)(event.name, **event.fields)
        except (OSError, ValueError):
            return
