"""Text that reads well on 100 columns, in a terminal or a pipe: no colours, no boxes."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator import words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

WIDTH = 100
#: Names in a line before it says how many more there are.
NAMES = 5


def ago(seconds: float) -> str:
    """A span of time in its largest unit, such as `41 s`, `12 min`, `5 h` or `3 d`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def day(at: float) -> str:
    """The date in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


def names(items: Sequence[str], most: int = NAMES) -> str:
    """The first few, and how many more there are."""
    return words.names(items, most)


def count(number: int, noun: str) -> str:
    """`1 pod`, `2 pods`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def columns(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows under their header, aligned; the last column is as long as it is."""
    table = [tuple(header), *map(tuple, rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header) - 1)]
    return ["  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip() for row in table]


def wrapped(text: str, indent: int) -> list[str]:
    """`text` on lines of at most WIDTH columns where it has spaces, those after the first indented."""
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )  # fmt: skip


def limited(items: Sequence[str], most: int | None) -> list[str]:
    """The first `most`, then a line that says how many more there are; None means all."""
    if most is None or len(items) <= most:
        return list(items)
    return [*items[:most], f"... and {len(items) - most} more (--all shows them)"]


def bullets(items: Iterable[str]) -> list[str]:
    """One item a line, wrapped under itself."""
    return [line for item in items for line in wrapped(f"  {item}", 4)]
