"""The result of a command on stdout."""

from __future__ import annotations

import sys
from typing import Any

from orchestrator.cli.options import Output
from orchestrator.report import API_VERSION


class ReaderGone(Exception):
    """Whoever read stdout has closed it, as `head` does."""


def say(text: str) -> None:
    """One line of progress, or what is worth knowing, on stderr."""
    sys.stderr.write(f"{text}\n")


def unsaid(text: str) -> None:
    """What `say` would say to somebody who wants silence."""
    del text


def show(output: Output, kind: str, body: dict[str, Any], table: str) -> None:
    """The result on stdout: `table` for people, or `body` as a document of `kind`.

    Raises:
        ReaderGone: Nobody reads it to its end.
    """
    put(_text(output, {"apiVersion": API_VERSION, "kind": kind, **body}, table))


def put(text: str) -> None:
    """Text on stdout.

    Raises:
        ReaderGone: Nobody reads it to its end.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as err:
        raise ReaderGone from err


def _text(output: Output, document: dict[str, Any], table: str) -> str:
    if output is Output.TABLE:
        return table if table.endswith("\n") or not table else table + "\n"
    if output is Output.JSON:
        import json  # noqa: PLC0415

        return json.dumps(document, indent=2) + "\n"
    import yaml  # noqa: PLC0415

    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text
