"""Where a user's own files are."""

from __future__ import annotations

import os
from pathlib import Path


def own(variable: str, *otherwise: str) -> Path:
    """This tool's directory below the one that a variable names, or below that of the user's home.

    Source: XDG Base Directory Specification: a path that is not absolute is to be ignored.
    """
    named = Path(os.environ.get(variable, ""))
    return (named if named.is_absolute() else Path.home().joinpath(*otherwise)) / "orchestrator"
