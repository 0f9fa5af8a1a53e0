"""What the lab builds, kept by the digest of what it was built from: made once, whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab import progress
from lab.processes import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_STILL_AFTER_S = 30


def root() -> Path:
    """The directory of all that the lab keeps, in the user's cache directory.

    Source: XDG Base Directory Specification 0.8: an empty or relative `XDG_CACHE_HOME` counts as unset.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "orchestrator-lab"


def artifact(name: str, inputs: Sequence[str | Path], build: Callable[[Path], None]) -> Path:
    """The directory that `build` fills, built now unless it is there already.

    Args:
        name: What it is, in a word; the digest of the inputs is put behind it.
        inputs: All that the outcome depends on: texts, and files, of which name and contents count.
        build: Fills the empty directory that it is given. That one has another name until it is complete.
    """
    identity = f"{name}-{digest(inputs)[:12]}"
    ready = root() / identity
    if ready.exists():
        return ready
    root().mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep()
    with _locked(identity, waiting=f"another process builds {identity}: waiting for it"):
        if not ready.exists():
            _build(identity, ready, build)
    return ready


def digest(inputs: Sequence[str | Path]) -> str:
    """Hex SHA-256 of texts, and of the names and contents of files, in order."""
    total = hashlib.sha256()
    for each in inputs:
        kind, content = ("text", each.encode()) if isinstance(each, str) else (f"file {each.name}", each.read_bytes())
        total.update(f"{kind} {len(content)}\n".encode())
        total.update(content)
    return total.hexdigest()


def _build(identity: str, ready: Path, build: Callable[[Path], None]) -> None:
    """Build under another name, write it through to the disk, then give it its own."""
    part = _part(identity)
    if part.exists():
        shutil.rmtree(part)
    part.mkdir()
    try:
        with _told(f"building {identity}"):
            build(part)
            run(["sync", "--file-system", str(part)])
            part.rename(ready)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)  # should this fail too, the next build sweeps it
        raise


@contextmanager
def _told(what: str) -> Iterator[None]:
    """As `progress.step`, with a line every half minute, so that long silence is never mistaken for a hang."""
    over, begun = threading.Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(_STILL_AFTER_S):
            progress.say(f"still {what}, {time.monotonic() - begun:.0f} s so far")

    teller = threading.Thread(target=tell, daemon=True)
    with progress.step(what):
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()


def _sweep() -> None:
    """Remove what builds left that died: theirs is a part that nobody holds the lock of."""
    for part in root().glob(".*.part"):
        with _locked(part.name[1 : -len(".part")], waiting=None) as free:
            if free:
                shutil.rmtree(part, ignore_errors=True)


def _part(identity: str) -> Path:
    return root() / f".{identity}.part"


@contextmanager
def _locked(identity: str, *, waiting: str | None) -> Iterator[bool]:
    """Holds the lock of one artifact. The kernel lets go of it whatever ends the process.

    Args:
        identity: Of the artifact.
        waiting: What to say when somebody else has it, before waiting; None: yield False instead of waiting.
    """
    with (root() / f".{identity}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is None:
                yield False
                return
            progress.say(waiting)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield True
