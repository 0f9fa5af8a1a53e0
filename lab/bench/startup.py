"""How long the command takes to say something that needs no cluster, beside a Typer application of one command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM = Path(sys.executable).parent / "orchestrator"
ROUNDS = 15

#: The measure: what Typer's own introduction begins with.
TYPER = "`--help` of a Typer app of one command"
_TYPER_APP = '''"""Typer's first example."""

import typer


def main(name: str) -> None:
    """Say hello."""
    typer.echo(f"Hello {name}")


typer.run(main)
'''
#: The same without rich, which this project's own command leaves out, too.
PLAIN_TYPER = "the same without rich"
_PLAIN_TYPER_APP = '''"""Typer's first example, without rich."""

import typer

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def main(name: str) -> None:
    """Say hello."""
    typer.echo(f"Hello {name}")


app()
'''


def measure(directory: Path, *, rounds: int = ROUNDS) -> dict[str, float]:
    """What was run -> seconds, the median of `rounds` in turn after one that does not count.

    Args:
        directory: An empty one, for the applications to compare with.
        rounds: How often each is run.
    """
    cases = _cases(directory)
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, (argv, extra) in cases.items():
            took_s = _timed(argv, {"PATH": os.environ["PATH"], "HOME": str(directory), **extra})
            if number:
                taken[name].append(took_s)
    return {name: median(seconds) for name, seconds in taken.items()}


def _cases(directory: Path) -> dict[str, tuple[Sequence[str], Mapping[str, str]]]:
    first, plain = directory / "first.py", directory / "plain.py"
    first.write_text(_TYPER_APP)
    plain.write_text(_PLAIN_TYPER_APP)
    program = str(PROGRAM)
    word = {"_ORCHESTRATOR_COMPLETE": "complete_bash", "COMP_WORDS": "orchestrator dra", "COMP_CWORD": "1"}
    option = {"_ORCHESTRATOR_COMPLETE": "complete_bash", "COMP_WORDS": "orchestrator drain --gr", "COMP_CWORD": "2"}
    return {
        TYPER: ((sys.executable, str(first), "--help"), {}),
        PLAIN_TYPER: ((sys.executable, str(plain), "--help"), {}),
        "`--help` of `orchestrator`": ((program, "--help"), {}),
        "`--help` of `orchestrator drain`": ((program, "drain", "--help"), {}),
        "completion of a command (`dra`)": ((program,), word),
        "completion of a flag (`drain --gr`)": ((program,), option),
    }


def _timed(argv: Sequence[str], environ: Mapping[str, str]) -> float:
    began = time.monotonic()
    done = subprocess.run(argv, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    took_s = time.monotonic() - began
    if done.returncode or not done.stdout:
        raise LabError(f"`{' '.join(argv)}` said nothing", remedy="run it by hand")
    return took_s
