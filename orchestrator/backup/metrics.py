"""What monitoring is told of backups: text for node_exporter's textfile collector, a file for each cluster.

Source: Prometheus, "Exposition formats", text format 0.0.4: `HELP` and `TYPE` once before a metric's lines, all of them
together, a line feed at the end; in a label's value backslash, quote and line feed are escaped. node_exporter's README,
"Textfile Collector": it reads `*.prom`, refuses timestamps and one series twice, and may read at any moment.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orchestrator.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PREFIX = "orchestrator_etcd_backup_"
#: Metric, field of `Metrics`, help.
_OF_CLUSTER = (
    ("last_success_timestamp_seconds", "success_at", "When the last backup was taken that ended well."),
    ("last_attempt_timestamp_seconds", "attempt_at", "When a backup was last tried."),
    ("last_attempt_success", "attempt_ok", "1 when the last try ended well."),
    ("size_bytes", "size_bytes", "Size of the last good snapshot."),
    ("stored_size_bytes", "stored_size_bytes", "Size of the last good snapshot as it is stored."),
    ("duration_seconds", "duration_s", "How long the last backup took that ended well."),
    ("revision", "revision", "Revision of etcd in the last good snapshot."),
    ("verified", "verified", "1 when the last good snapshot was verified."),
    ("keys", "keys", "Live keys in the last good snapshot."),
    ("drill_timestamp_seconds", "drill_at", "When a restore was last rehearsed."),
    ("drill_success", "drill_ok", "1 when the last rehearsal of a restore went well."),
)
#: Metric, field of `Copy`, help.
_OF_DESTINATION = (
    ("destination_success", "ok", "1 when the last copy to the destination ended well."),
    ("destination_last_success_timestamp_seconds", "success_at", "When a copy last reached the destination."),
)
_FLAGS = ("attempt_ok", "verified", "drill_ok", "ok")
_WHOLE = ("size_bytes", "stored_size_bytes", "revision", "keys")
#: What belongs to the snapshot of the last success, and is renewed with it as a whole.
_SNAPSHOT = ("size_bytes", "stored_size_bytes", "duration_s", "revision", "verified", "keys")

_LABEL = r'"((?:[^"\\\n]|\\["\\n])*)"'
_LINE = re.compile(
    rf"{PREFIX}([a-z_]+)\{{cluster={_LABEL}(?:,destination={_LABEL})?\}}"
    r" ([0-9]{1,20}(?:\.[0-9]+)?(?:e[+-]?[0-9]{1,3})?)"
)


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """How a destination fared.

    Attributes:
        destination: A directory or a URL. Credentials in it are not shown.
        ok: The last copy there ended well; None when none was tried.
        success_at: When one last did, in seconds since the epoch; None when it is not known.
    """

    destination: str
    ok: bool | None = None
    success_at: float | None = None


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a cluster's backups. None is not shown; in news it means that there is nothing new.

    Attributes:
        cluster: Its name.
        attempt_at, attempt_ok: The last try.
        success_at: When the last good snapshot was taken, in seconds since the epoch.
        size_bytes: Of that snapshot; stored_size_bytes as it is stored, compressed and encrypted.
        duration_s: How long that backup took.
        revision, keys: Of etcd, in that snapshot.
        verified: That snapshot was read back and checked.
        drill_at, drill_ok: The last rehearsal of a restore.
        copies: By destination.
    """

    cluster: str
    attempt_at: float | None = None
    attempt_ok: bool | None = None
    success_at: float | None = None
    size_bytes: int | None = None
    stored_size_bytes: int | None = None
    duration_s: float | None = None
    revision: int | None = None
    verified: bool | None = None
    keys: int | None = None
    drill_at: float | None = None
    drill_ok: bool | None = None
    copies: tuple[Copy, ...] = ()


def label(destination: str) -> str:
    """A destination without what may be secret: a URL's user, password, query and fragment, and scp's user.

    Where a password may hold a bare `/`, `?` or `@`, all before the last `@` goes, though a path be cut by it: rather
    too short than with a part of a secret in it.
    """
    scheme, separator, rest = destination.partition("://")
    if not separator:
        head, slash, tail = destination.partition("/")
        return head.rpartition("@")[2] + slash + tail
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    shown = rest if ":" in authority else authority
    shown = shown.rpartition("@")[2] + rest[len(shown) :]
    return scheme.rpartition("@")[2] + separator + re.split(r"[?#]", shown, maxsplit=1)[0]


def render(*every: Metrics) -> str:
    """The text for clusters of different names; "" when nothing is known of them.

    Destinations that look alike without their credentials are shown as one, by the worst of them: a series that is
    there twice would make node_exporter refuse the file.
    """
    lines: list[str] = []
    for name, field, told in _OF_CLUSTER:
        found = [(f'cluster="{_escaped(each.cluster)}"', _number(getattr(each, field))) for each in every]
        lines += _family(name, told, found)
    for name, field, told in _OF_DESTINATION:
        found = [
            (
                f'cluster="{_escaped(each.cluster)}",destination="{_escaped(copy.destination)}"',
                _number(getattr(copy, field)),
            )
            for each in every
            for copy in _shown(each.copies)
        ]
        lines += _family(name, told, found)
    return "".join(f"{line}\n" for line in lines)


def _family(name: str, told: str, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    known = [(labels, value) for labels, value in found if value]
    if known:
        yield f"# HELP {PREFIX}{name} {told}"
        yield f"# TYPE {PREFIX}{name} gauge"
    for labels, value in known:
        yield f"{PREFIX}{name}{{{labels}}} {value}"


def _number(value: float | None) -> str:
    """As Prometheus reads it; "" for what is not known."""
    if value is None or not math.isfinite(value) or value < 0:
        return ""
    return str(int(value)) if value == int(value) and value < 10**19 else repr(value)


def _escaped(value: str) -> str:
    # A path may hold bytes that are no UTF-8, which Python keeps as lone surrogates and Prometheus does not take.
    valid = value.encode("utf-8", "replace").decode()
    return valid.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _unescaped(value: str) -> str:
    return re.sub(r'\\(["\\n])', lambda found: "\n" if found[1] == "n" else found[1], value)


def _shown(copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """By destination, as labels have it, each once."""
    by_label: dict[str, Copy] = {}
    for copy in copies:
        name = label(copy.destination)
        before = by_label.get(name)
        by_label[name] = msgspec.structs.replace(_worse(copy, before) if before else copy, destination=name)
    return tuple(by_label[name] for name in sorted(by_label))


def _worse(one: Copy, other: Copy) -> Copy:
    """What both have reached."""
    oks = [copy.ok for copy in (one, other) if copy.ok is not None]
    known = one.success_at is not None and other.success_at is not None
    oldest = min(one.success_at or 0.0, other.success_at or 0.0) if known else None
    return Copy(destination=one.destination, ok=all(oks) if oks else None, success_at=oldest)


# ---- what was there before ------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Metrics, ...]:
    """What an earlier `render` told, by cluster. Lines that it did not write whole are passed over."""
    fields = {name: field for name, field, _ in (*_OF_CLUSTER, *_OF_DESTINATION)}
    found: dict[str, dict[str, object]] = {}
    copies: dict[str, dict[str, dict[str, object]]] = {}
    for line in text.split("\n")[:-1]:  # what follows the last line feed was cut off
        parts = _LINE.fullmatch(line)
        if parts is None or parts[1] not in fields or (parts[3] is None) == parts[1].startswith("destination_"):
            continue
        field = fields[parts[1]]
        value = _value(field, parts[4])
        if value is None:
            continue
        cluster = _unescaped(parts[2])
        there = found.setdefault(cluster, {})
        if parts[3] is not None:
            there = copies.setdefault(cluster, {}).setdefault(_unescaped(parts[3]), {})
        there[field] = value
    return tuple(
        msgspec.convert(
            there | {"cluster": name, "copies": [at | {"destination": to} for to, at in copies.get(name, {}).items()]},
            Metrics,
        )
        for name, there in found.items()
    )


def _value(field: str, text: str) -> float | None:
    """The number of a line; None when that field cannot have it."""
    value = int(text) if text.isdigit() else float(text)
    if field in _FLAGS:
        return bool(value) if value in (0, 1) else None
    if field in _WHOLE:
        return value if isinstance(value, int) and value < 2**63 else None
    return float(value) if math.isfinite(value) else None


def merge(previous: str, new: Metrics) -> str:
    """The text with what is new, and what was told before where nothing is.

    A try that failed leaves the last success as it is, with its snapshot. A success renews all of its snapshot: what
    is not known of the new one is not shown, rather than that of another.
    Destinations that the news does not name stay, so that one that was forgotten grows stale and is noticed; delete
    the file to drop them. Other clusters stay.

    Args:
        previous: The text of the file; "" when there is none. What is not readable in it is taken as not there.
        new: What has happened.
    """
    every = {each.cluster: each for each in parse(previous)}
    name = _unescaped(_escaped(new.cluster))
    if (before := every.get(name)) is not None:
        new = _over(before, new)
    every[name] = new
    return render(*(every[cluster] for cluster in sorted(every)))


def _over(before: Metrics, new: Metrics) -> Metrics:
    changes: dict[str, object] = {
        field: getattr(new, field)
        for _, field, _ in _OF_CLUSTER
        if getattr(new, field) is not None or (new.attempt_ok and field in _SNAPSHOT)
    }
    copies = {copy.destination: copy for copy in _shown(before.copies)}
    for copy in _shown(new.copies):
        old = copies.get(copy.destination, copy)
        copies[copy.destination] = Copy(
            destination=copy.destination,
            ok=old.ok if copy.ok is None else copy.ok,
            success_at=old.success_at if copy.success_at is None else copy.success_at,
        )
    return msgspec.structs.replace(before, **changes, copies=tuple(copies.values()))


# ---- the file -------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    """Put the text at `path`, whole or not at all, so that all may read it.

    Until it is whole its name does not end in `.prom`, which node_exporter would read.

    Raises:
        StoreError: It cannot be written there.
    """
    try:
        _swap(path, text.encode())
    except OSError as err:
        where = shlex.quote(str(path.parent))
        raise StoreError(
            f"metrics could not be written to {path}: {err.strerror or err}",
            remedy=f"see that the directory is there, has room, and is writable: `ls -ld {where}; df {where}`",
        ) from err


def update(path: Path, new: Metrics) -> None:
    """`merge` the news into the file at `path`. A file that cannot be read is replaced.

    Raises:
        StoreError: It cannot be written there.
    """
    try:
        previous = path.read_bytes().decode(errors="replace")
    except OSError:
        previous = ""
    write(path, merge(previous, new))


def _swap(path: Path, content: bytes) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(fd, "wb") as new:
            os.fchmod(new.fileno(), 0o644)
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
