"""The command line's root: the list of commands, and the one place where errors become text and exit codes."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator import __version__
from orchestrator.cli import etcd, hosts, nodes, runs, survey, upgrade
from orchestrator.cli.commands import Commands
from orchestrator.cli.output import ReaderGone
from orchestrator.errors import BadUsage, OrchestratorError, Paused

if TYPE_CHECKING:
    from collections.abc import Sequence

app = Commands(
    name="orchestrator",
    help="Takes Kubernetes clusters through maintenance without surprises.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
#: typer does not give its name away.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
#: Ctrl-C where no run was under way.
INTERRUPTED = 130

survey.register(app)
nodes.register(app)
upgrade.register(app)
etcd.register(app)
runs.register(app)
hosts.register(app)


def _version(value: bool) -> None:  # noqa: FBT001  typer calls it so
    if value:
        typer.echo(f"orchestrator {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Takes Kubernetes clusters through maintenance without surprises."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; see `docs/exit-codes.md`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = "kubectl orchestrator" if os.path.basename(sys.argv[0]) == "kubectl-orchestrator" else "orchestrator"  # noqa: PTH119
    words = [_bare_dry_run(a) for a in arguments] or ["--help"]
    try:
        code = app(args=words, prog_name=name, standalone_mode=False) or 0
    except _UsageError as err:
        sys.stderr.write(explained(_unusable(err, name)))
        sys.exit(2)
    except OrchestratorError as err:
        sys.stderr.write(explained(err))
        sys.exit(err.exit_code)
    except ReaderGone:
        # Nothing more to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    if code == INTERRUPTED:
        sys.stderr.write("stopped\n")
    sys.exit(code if arguments else 2)


def _unusable(err: Exception, name: str) -> BadUsage:
    """What typer says of arguments that it cannot read, in our form."""
    context = getattr(err, "ctx", None)
    command = context.command_path if context else name
    said = str(getattr(err, "format_message", err.__str__)()).rstrip(".")
    return BadUsage(said[:1].lower() + said[1:], remedy=f"`{command} --help` shows what there is")


def _bare_dry_run(argument: str) -> str:
    """`--dry-run` alone means client, as kubectl has it."""
    return "--dry-run=client" if argument == "--dry-run" else argument


def explained(err: OrchestratorError) -> str:
    """An error as a person reads it: what, where, and what to do."""
    lines = [f"{'paused' if isinstance(err, Paused) else 'error'}: {err}"]
    lines += [f"  {note}" for note in getattr(err, "__notes__", ())]
    lines += [f"remedy: {line}" for line in err.remedy.splitlines()]
    if err.run:
        lines += [f"go on:   orchestrator resume {err.run}", f"go back: orchestrator release {err.run}"]
    return "\n".join(lines) + "\n"
