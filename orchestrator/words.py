"""Words for people that every layer needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def names(items: Sequence[str], most: int, count: int | None = None) -> str:
    """The first few, and how many more there are.

    Args:
        items: All of them, or the first ones.
        most: So many are named.
        count: Of all of them, where `items` are only the first.
    """
    left = (len(items) if count is None else count) - len(items[:most])
    return ", ".join(items[:most]) + (f" and {left} more" if left > 0 else "")
