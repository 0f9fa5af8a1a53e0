"""Snapshots as they are kept: found at destinations, fetched, opened, and proven by reading all of them."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orchestrator.actions.backups import STAGING, placed
from orchestrator.actions.rebuild import opened
from orchestrator.backup import catalogue, records, seal, stores
from orchestrator.backup import recovery as sets
from orchestrator.backup.catalogue import Checked
from orchestrator.backup.snapshot import examine
from orchestrator.engine import runs
from orchestrator.errors import (
    ApiError,
    BackupError,
    BadUsage,
    FactUnreadable,
    HostError,
    OrchestratorError,
    Refused,
    SnapshotInvalid,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestrator.app import App
    from orchestrator.backup.catalogue import Catalogue, Held
    from orchestrator.backup.records import Part, Record
    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.engine.host import Host

    #: A destination, and what happened to it.
    Failed = tuple[str, OrchestratorError]


def home() -> Path:
    """Where snapshots of this user are kept unless another destination is named."""
    return runs.snapshots()


@dataclass(frozen=True, slots=True)
class Copies:
    """One snapshot, wherever it is.

    Attributes:
        held: Its copies, in the order of destinations.
        absent: Destinations that have none.
        unread: Destinations that could not be read, with why.
    """

    held: tuple[Held, ...]
    absent: tuple[str, ...]
    unread: tuple[tuple[str, OrchestratorError], ...]


class Library:
    """Destinations, opened without a cluster where none of them is a node's disk.

    Args:
        app: For hosts.
        destinations: As they are named; none for the directory of this user.
        node: The one that `node:` in a destination stands for; "" where none is known.
    """

    def __init__(self, app: App, destinations: Sequence[str], node: str = "") -> None:
        self._app = app
        self._node = node
        self.urls = tuple(dict.fromkeys(placed(d).url for d in destinations)) or (str(home()),)

    def store(self, url: str) -> stores.Store:
        """One of them.

        Raises:
            BadUsage: It is none.
        """
        return stores.open_store(url, host=self._host)

    def _host(self, place: str) -> Host:
        if place.startswith("sftp://"):
            return self._app.elsewhere(place)
        node = self._node if place == "node" else place
        if not node:
            raise BadUsage("node: stands for the node of a backup that is taken now", remedy="name it: NODE:/DIR")
        return self._app.host(node)

    def catalogues(self, cluster: str = "") -> tuple[tuple[Catalogue, ...], tuple[Failed, ...]]:
        """What each holds, of one cluster where it is named, and those that could not be read with why."""
        found, failed = [], []
        for url in self.urls:
            try:
                each = catalogue.read(self.store(url))
                mine = tuple(h for h in each.held if cluster in ("", h.record.cluster))
                found.append(replace(each, held=mine))
            except (BackupError, HostError, ApiError) as err:
                failed.append((url, err))
        return tuple(found), tuple(failed)

    def find(self, name: str) -> Held:
        """The snapshot that is meant: its name, the beginning of it, or `last` for the newest that is whole.

        Raises:
            BadUsage: There is none, or several begin so.
        """
        return self._meant(name, *self.catalogues())

    def copies(self, name: str) -> Copies:
        """Each copy of the snapshot that is meant, as `find`.

        Raises:
            BadUsage: As `find`.
        """
        found, failed = self.catalogues()
        meant = self._meant(name, found, failed).record
        same = (meant.name, meant.sha256)
        held = tuple(h for each in found for h in each.held if (h.record.name, h.record.sha256) == same)
        having = {h.url for h in held}
        return Copies(held, tuple(each.url for each in found if each.url not in having), failed)

    def _meant(self, name: str, found: Sequence[Catalogue], failed: Sequence[tuple[str, OrchestratorError]]) -> Held:
        if not name:
            raise BadUsage("a snapshot without a name cannot be meant", remedy="orchestrator etcd list")
        held = sorted((h for each in found for h in each.held), key=lambda h: -h.record.at)
        if name == "last":
            # Neither one that a wrong clock dated in the future, nor the state that a restore took the cluster from.
            now = self.now()
            whole = [h for h in held if not h.wrong and h.record.at <= now]
            held = ([h for h in whole if h.record.reason != "pre-restore"] or whole)[:1]
        else:
            held = [h for h in held if h.record.name == name] or [h for h in held if h.record.name.startswith(name)]
        if not held:
            away = "".join(f"; {url} could not be read: {err}" for url, err in failed)
            raise BadUsage(
                f"there is no snapshot {name!r} at {', '.join(self.urls)}{away}", remedy="orchestrator etcd list"
            )
        if len({h.record.name for h in held}) > 1:
            names = ", ".join(sorted({h.record.name for h in held})[:5])
            raise BadUsage(f"several snapshots begin with {name!r}", remedy=f"one of: {names}")
        return next((h for h in held if not h.wrong), held[0])

    def rewrite(self, record: Record, **changes: object) -> tuple[tuple[str, ...], tuple[Failed, ...]]:
        """Change a snapshot's record at every destination that has it.

        Returns:
            Where it is changed, and those that could not be read or written, with why.
        """
        found, away = self.catalogues()
        done, failed = [], list(away)
        same = (record.name, record.sha256)
        for held in (h for each in found for h in each.held if (h.record.name, h.record.sha256) == same):
            try:
                self.note(held, **changes)
                done.append(held.url)
            except (BackupError, HostError, ApiError) as err:
                failed.append((held.url, err))
        return tuple(done), tuple(failed)

    def note(self, held: Held, **changes: object) -> None:
        """Change the record of one copy, as it is by now: it may have been pinned, or removed, since it was read.

        Raises:
            BackupError: It could not be written, or is gone.
        """
        store = self.store(held.url)
        there = records.decode(store.get_bytes(held.file), held.file, held.url)
        if there.sha256 != held.record.sha256:
            raise StoreError(f"{held.url}: {held.file} is of another snapshot by now", remedy="repeat")
        store.put_bytes(records.encode(msgspec.structs.replace(there, **changes)), held.file)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._app.clock.wall()


# ---- proof ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proven:
    """A plain snapshot that was read whole.

    Attributes:
        path: Of the file, which is there as long as its context.
        where: The file, or name and destination, for people.
        record: None for a file without one.
        held: Where it is recorded; None for a file.
        trailer: It has a sum at its end.
    """

    path: Path
    where: str
    snapshot: Snapshot
    record: Record | None
    held: Held | None = None
    trailer: bool = True


def plain_copy(library: Library, held: Held, directory: Path, identities: Sequence[Path]) -> Path:
    """The plain snapshot of a record, fetched, its sums compared, decrypted and decompressed.

    Raises:
        BackupError: It is not there, or not as recorded.
        BadUsage: It is encrypted, and no identity was given.
    """
    record = held.record
    if record.encrypted and not identities:
        raise BadUsage(f"{record.name} is encrypted", remedy="give the file of an identity: --identity FILE")
    stored, plain = directory / record.data.file, directory / f"{record.name}.plain.db"
    _fetched(library, held.url, record.data, stored)
    if record.encrypted or record.data.file.endswith(".zst"):
        compressed = ".zst" in record.data.file.partition(records.DATA)[2]
        opened = seal.unseal(stored, plain, compressed=compressed, identities=identities, limit_bytes=record.size_bytes)
        stored.unlink()
        if opened.sha256 != record.sha256:
            raise SnapshotInvalid(f"{held.url}: {record.name} is not the one recorded", remedy="use another snapshot")
        return plain
    return stored


def _fetched(library: Library, url: str, part: Part, target: Path) -> None:
    """A file of a destination, as it is stored there, once its sum is the recorded one."""
    library.store(url).get(part.file, target, limit_bytes=part.size_bytes)
    if (found := seal.measured(target).sha256) != part.sha256:
        raise SnapshotInvalid(
            f"{url}: {part.file} has sha256 {found[:16]}…, {part.sha256[:16]}… was recorded",
            remedy="it was changed or damaged there: use another snapshot, or another destination",
        )


@contextlib.contextmanager
def proven(library: Library, name: str, identities: Sequence[Path], *, trailer: bool) -> Iterator[Proven]:
    """A snapshot that is recorded, by its name, fetched and decrypted for as long as the context; or any file.

    Args:
        library: Where it is recorded.
        name: What has a slash in it, or is there, is a file.
        identities: What decrypts.
        trailer: False for a file that is a copy of `member/snap/db`.

    Raises:
        BackupError: It is not whole, or not as recorded.
        BadUsage: There is none, or it is encrypted and there is no identity.
    """
    path = Path(name)
    if "/" in name or path.is_file():
        if not path.is_file():
            raise BadUsage(f"there is no file {name}", remedy="name a file, or a snapshot of `orchestrator etcd list`")
        beside = path.with_suffix(records.RECORD)
        record = records.decode(beside.read_bytes(), beside.name, str(beside.parent)) if beside.is_file() else None
        found = examine(path, trailer=trailer)
        if record and not record.encrypted and record.data.file == path.name and record.sha256 != found.sha256:
            raise SnapshotInvalid(f"{path} is not the one that {beside} records", remedy="use another snapshot")
        yield Proven(path, str(path), found, record, trailer=trailer)
        return
    with _proven(library, library.find(name), identities) as copy:
        yield copy


@contextlib.contextmanager
def _proven(library: Library, held: Held, identities: Sequence[Path]) -> Iterator[Proven]:
    if held.wrong:
        raise SnapshotInvalid(f"{held.url}: {held.wrong}", remedy="use another snapshot: orchestrator etcd list")
    with staging() as directory:
        copy = plain_copy(library, held, directory, identities)
        yield Proven(copy, f"{held.record.name} at {held.url}", examine(copy), held.record, held)


@dataclass(frozen=True, slots=True)
class Verified:
    """A snapshot that was read whole, at every destination that was asked for.

    Attributes:
        proven: What was read of a whole copy; its file is gone.
        copies: Each destination that could be read; none for a file.
        failures: Why copies are not whole, and destinations could not be read.
    """

    proven: Proven
    copies: tuple[Checked, ...] = ()
    failures: tuple[OrchestratorError, ...] = ()


def verify(library: Library, name: str, identities: Sequence[Path], *, trailer: bool) -> Verified:
    """Read all of a file; or of each copy of a recorded snapshot, and of the recovery set beside it.

    That a copy is whole is put into its record.

    Raises:
        BackupError: No copy is whole; notes tell of the others.
        BadUsage: There is none, or it is encrypted and there is no identity.
    """
    if "/" in name or Path(name).is_file():
        with proven(library, name, identities, trailer=trailer) as found:
            return Verified(found)
    copies = library.copies(name)
    whole: list[Proven] = []
    checked: list[Checked] = []
    failures: list[OrchestratorError] = []
    for held in copies.held:
        try:
            with _proven(library, held, identities) as found:
                recovery = _recovery(library, held, identities)
            whole.append(found)
            checked.append(Checked(held.url, recovery=recovery, unrecorded=_unrecorded(library, held)))
        except (BackupError, HostError, ApiError) as err:
            checked.append(Checked(held.url, wrong=str(err)))
            failures.append(err)
    failures += [err for _, err in copies.unread]
    if not whole:
        for also in failures[1:]:
            failures[0].add_note(str(also))
        raise failures[0]
    absent = (Checked(url, there=False) for url in copies.absent)
    return Verified(whole[0], (*checked, *absent), tuple(failures))


def _recovery(library: Library, held: Held, identities: Sequence[Path]) -> str | None:
    """Why no machine can be rebuilt of the set beside a copy, "" when one can; None without a set.

    Raises:
        BackupError: It is not as recorded, or cannot be opened.
    """
    part = held.record.recovery
    if part is None:
        return None
    with staging() as directory:
        stored = directory / part.file
        _fetched(library, held.url, part, stored)
        try:
            with opened(stored, identities, sets.LIMIT_BYTES) as memory:
                sets.read(memory, part.file)
        except (Refused, FactUnreadable) as err:
            return str(err)
    return ""


def _unrecorded(library: Library, held: Held) -> str:
    """Nothing, once a copy's record tells that it is whole; else why that could not be written."""
    try:
        library.note(held, verified=library.now())
    except (BackupError, HostError, ApiError) as err:
        return str(err)
    return ""


@contextlib.contextmanager
def staging() -> Iterator[Path]:
    """A directory for plain copies, beside this user's snapshots: a temporary one may be too small, or in memory."""
    place = home() / STAGING
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as directory:
        yield Path(directory)
