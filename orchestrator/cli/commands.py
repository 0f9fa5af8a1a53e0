"""A list of commands, each of which takes its flags from the settings file where they are not given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperOption

from orchestrator.places import own

if TYPE_CHECKING:
    from collections.abc import Callable


class Commands(typer.Typer):
    """As typer's; every command has `--inventory`."""

    def command(self, name: str | None = None, **how: Any) -> Callable[[Any], Any]:
        """The decorator that adds a command."""
        return super().command(name, cls=_Configured, **how)


class _Configured(TyperCommand):
    def __init__(self, *args: Any, params: list[Any] | None = None, **how: Any) -> None:
        super().__init__(*args, params=[*(params or ()), _option()], **how)


def _option() -> TyperOption:
    return TyperOption(
        param_decls=["--inventory"],
        type=str,
        metavar="FILE",
        envvar="ORCHESTRATOR_INVENTORY",
        help="Settings, instead of ~/.config/orchestrator/orchestrator.yaml.",
        is_eager=True,  # the others are read with what stands in it
        expose_value=False,
        show_envvar=True,
        callback=_read,
    )


def _read(context: typer.Context, _option: Any, value: str | None) -> None:
    """Make the file's values the defaults; a flag wins over it, and so does an environment variable."""
    path = Path(value) if value else _own()
    if path is None or context.resilient_parsing:
        return
    from orchestrator import config  # noqa: PLC0415  slow to import; most have no such file

    said = config.settings(path)
    flags = {str(p.envvar): str(p.name) for p in context.command.params if p.envvar}
    context.default_map = {flags[name]: each for name, each in said.items() if name in flags}


def _own() -> Path | None:
    """This user's settings file, if there is one."""
    path = own("XDG_CONFIG_HOME", ".config") / "orchestrator.yaml"
    return path if path.exists() else None
