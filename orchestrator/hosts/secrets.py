"""Passphrases and passwords: asked for once, kept in memory, shown nowhere."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: How often one is asked for.
TRIES = 3


class Secrets:
    """Asks a person for secrets. Threads that need the same one wait for one question.

    Args:
        ask: Shows a prompt and reads a line without echo; None where nobody can be asked.
    """

    def __init__(self, ask: Callable[[str], str] | None = None) -> None:
        self._ask = ask
        self._known: dict[str, str] = {}
        self._tries: Counter[str] = Counter()
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"Secrets({len(self._known)})"

    def secret(self, prompt: str) -> str | None:
        """The answer to `prompt`, the same for all who ask it; None where nobody can be asked, or nothing was said."""
        with self._mutex:
            if prompt not in self._known:
                if self._ask is None:
                    return None
                self._known[prompt] = self._ask(prompt)
            return self._known[prompt] or None

    def proved(self, prompt: str) -> None:
        """The answer to `prompt` was right somewhere: where it is not, the question is not put again."""
        with self._mutex:
            self._tries[prompt] = TRIES

    def wrong(self, prompt: str, answer: str) -> bool:
        """An answer turned out to be wrong: whether there is to be another, for which `secret` asks.

        The last wrong one is kept: many hosts ask for the same, and a person is not asked once for each.
        """
        with self._mutex:
            if self._known.get(prompt) != answer:
                return True
            self._tries[prompt] += 1
            if self._tries[prompt] >= TRIES:
                return False
            del self._known[prompt]
            return True
