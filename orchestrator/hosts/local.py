"""This machine as a host."""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING

from orchestrator.hosts import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.engine.host import Stream, T
    from orchestrator.hosts.output import Output


class LocalTransport:
    """Runs commands here."""

    @property
    def user(self) -> str:
        """Who this process is."""
        return "root" if os.geteuid() == 0 else getpass.getuser()

    def execute(
        self, argv: Sequence[str], *, stdin: Iterator[bytes], output: Output, deadline_s: float, repeatable: bool
    ) -> int:
        """Run `argv` to its end; its exit status."""
        return process.execute(
            "this machine", argv, stdin=stdin, output=output, deadline_s=deadline_s, repeatable=repeatable
        )

    def converse(self, service: str, talk: Callable[[Stream], T], *, silence_s: float) -> T:
        """Nothing: services are SSH's."""
        del talk, silence_s
        raise process.no_service("this machine", service)

    def close(self) -> None:
        """Nothing is held."""
