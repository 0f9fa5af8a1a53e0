"""What a destination holds: records, whether their files are there, and files that belong to none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.backup import records
from orchestrator.backup.records import Record
from orchestrator.errors import SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: Records that are read at once: each is a request of its own to an object store.
AT_ONCE = 8
#: A record is no larger.
RECORD_BYTES = 1 << 20


class Named(Protocol):
    """A file at a destination."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def size_bytes(self) -> int:
        """Its size."""
        ...


class Shelf(Protocol):
    """A destination, for those who only read it."""

    @property
    def url(self) -> str:
        """It, for people."""
        ...

    def names(self) -> Sequence[Named]:
        """Its files."""
        ...

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """A file of it, as `target`."""
        ...

    def get_bytes(self, name: str, limit_bytes: int = ...) -> bytes:
        """The contents of a small file of it."""
        ...

    def free_bytes(self) -> int | None:
        """How much there is room for; None where that is not known."""
        ...


class ReadOnly:
    """A destination that can only be read, whatever is behind it.

    Args:
        shelf: That.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    @property
    def url(self) -> str:
        """It, for people."""
        return self._shelf.url

    def names(self) -> Sequence[Named]:
        """Its files."""
        return self._shelf.names()

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """A file of it, as `target`."""
        self._shelf.get(name, target, limit_bytes=limit_bytes)

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file of it."""
        return self._shelf.get_bytes(name, limit_bytes)

    def free_bytes(self) -> int | None:
        """How much there is room for; None where that is not known."""
        return self._shelf.free_bytes()


@dataclass(frozen=True, slots=True)
class Held:
    """A snapshot at one destination.

    Attributes:
        file: The name of its record there.
        wrong: What is not as recorded, "" when all its files are there in their sizes.
    """

    record: Record
    url: str
    file: str
    wrong: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """All its files, the record last: what is half removed is seen, and removed the next time."""
        return (*(part.file for part in self.record.files), self.file)


@dataclass(frozen=True, slots=True)
class Checked:
    """The copy of a snapshot at one destination, read whole.

    Attributes:
        url: The destination.
        there: It has one.
        wrong: Why that is not whole; "" when it is, or is not there.
        recovery: Why no machine can be rebuilt of the recovery set beside it, "" when one can; None without a set.
        unrecorded: Why that it is whole could not be put into its record; "" when it was.
    """

    url: str
    there: bool = True
    wrong: str = ""
    recovery: str | None = None
    unrecorded: str = ""

    @property
    def whole(self) -> bool:
        """It is there, and whole."""
        return self.there and not self.wrong


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One destination.

    Attributes:
        held: Newest first.
        unread: File -> why it is no record.
        strays: Data files that no record names.
    """

    url: str
    held: tuple[Held, ...]
    unread: tuple[tuple[str, str], ...]
    strays: tuple[str, ...]


def read(shelf: Shelf) -> Catalogue:
    """All that a destination holds.

    Raises:
        StoreError: It cannot be read.
    """
    sizes = {found.name: found.size_bytes for found in shelf.names()}
    texts = [name for name in sizes if name.endswith(records.RECORD)]
    with ThreadPoolExecutor(AT_ONCE, "catalogue") as crew:
        answers = list(crew.map(lambda name: _record(shelf, name), texts))
    found = [(name, answer) for name, answer in zip(texts, answers, strict=True) if isinstance(answer, Record)]
    held = tuple(Held(record, shelf.url, name, _wrong(record, sizes)) for name, record in found)
    named = {part.file for _, record in found for part in record.files}
    strays = (n for n in sizes if n not in named and (records.DATA in n or records.RECOVERY in n))
    unread = tuple(answer for answer in answers if isinstance(answer, tuple))
    return Catalogue(
        shelf.url, tuple(sorted(held, key=lambda h: (-h.record.at, h.record.name))), unread, tuple(sorted(strays))
    )


def _record(shelf: Shelf, name: str) -> Record | tuple[str, str]:
    try:
        return records.decode(shelf.get_bytes(name), name, shelf.url)
    except SnapshotInvalid as err:
        return name, str(err)


def _wrong(record: Record, sizes: dict[str, int]) -> str:
    for part in record.files:
        if part.file not in sizes:
            return f"{part.file} is missing"
        if sizes[part.file] != part.size_bytes:
            return f"{part.file} has {sizes[part.file]} bytes, not {part.size_bytes}"
    return ""
