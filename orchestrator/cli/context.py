"""What a command that talks to a cluster begins with: settings, and the sink of its progress."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from orchestrator.app import App, Settings, notice
from orchestrator.cli.options import LogFormat
from orchestrator.engine.events import Silent
from orchestrator.errors import BadUsage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.engine.events import Sink
    from orchestrator.engine.plan import Plan
    from orchestrator.served import Seat

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def application(
    *,
    kubeconfig: Path | None,
    context: str | None,
    log_format: LogFormat = LogFormat.TEXT,
    quiet: bool = False,
    **settings: Any,
) -> App:
    """The application as the common options describe it; `quiet` tells nothing of its progress."""
    known = Settings(str(kubeconfig) if kubeconfig else None, context, **settings)
    asks = attended()
    return App(
        known,
        Silent() if quiet else sink(log_format),
        confirm if asks else None,
        event_notice if log_format is LogFormat.JSON else notice,
        secret if asks else None,
    )


def seat(node: str, programs: Sequence[Path] | None, encryption: Path | None, *, here: bool) -> Seat:
    """Where a snapshot is served, as the options say.

    Raises:
        BadUsage: They contradict each other.
    """
    from orchestrator.served import Seat  # noqa: PLC0415

    if here and node:
        raise BadUsage("--here and --node are two places", remedy="leave one of them out")
    if programs and not here:
        raise BadUsage("--programs is for --here", remedy="add --here, or leave it out")
    found = tuple(each.absolute() for each in programs or ())
    return Seat(node.removeprefix("node/"), here=here, programs=found, encryption=encryption)


def attended() -> bool:
    """Somebody sits before a terminal, and can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def secret(prompt: str) -> str:
    """Ask for a password or a passphrase on the terminal, without echo."""
    from getpass import getpass  # noqa: PLC0415

    return getpass(f"{prompt}: ")


def sink(log_format: LogFormat) -> Sink:
    """Where progress goes: JSON lines, a live table on a terminal, or plain lines."""
    if log_format is LogFormat.JSON:
        from orchestrator.report.logs import JsonLines  # noqa: PLC0415

        return JsonLines(sys.stderr)
    if sys.stderr.isatty():
        from orchestrator.report.live import Live  # noqa: PLC0415

        return Live(sys.stderr)
    from orchestrator.report.console import Lines  # noqa: PLC0415

    return Lines(sys.stderr)


def event_notice(text: str) -> None:
    """A notice as a JSON event: see `app.notice` for why it goes past the sink."""
    import json  # noqa: PLC0415
    from datetime import UTC, datetime  # noqa: PLC0415

    event = {"event": "run.stopping", "level": "warning", "at": datetime.now(UTC).isoformat(), "why": text}
    with contextlib.suppress(OSError):  # nobody reads it any more
        os.write(2, json.dumps(event).encode() + b"\n")


def confirm(plan: Plan) -> bool:
    """Ask on the terminal; what takes a whole cluster back is confirmed by its name."""
    name = next((s.params["cluster_name"] for s in plan.steps() if "cluster_name" in s.params), "")
    if name:
        sys.stderr.write(f"{plan.title} ({', '.join(plan.nodes())}): type the cluster's name, {name}, to go on: ")
        sys.stderr.flush()
        return sys.stdin.readline().strip() == name
    sys.stderr.write(f"{plan.title} ({', '.join(plan.nodes())}): go on? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def duration(text: str, flag: str) -> float:
    """Seconds of a Go duration such as `90s` or `1m30s`; `0` is 0.

    Source: Go `time.ParseDuration`, as kubectl's `--timeout` takes it: a number without a unit is refused.
    """
    if text == "0":
        return 0.0
    parts = _DURATION.findall(text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise BadUsage(f"{flag}={text} is not a duration", remedy=f"give a unit, such as {flag}=90s or {flag}=5m")
    return sum(float(n) * _UNIT_S[u] for n, u in parts)
