"""known_hosts: who has vouched for which host key. Its text is read and changed here; nothing is pure guesswork.

Source: sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT", OpenSSH 9.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import hmac
import os
import re
import tempfile
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import BadUsage, HostKeyChanged, HostKeyUnknown, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SSH_PORT = 22


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key of a host.

    Attributes:
        kind: Such as `ssh-ed25519`.
        blob: The key as it goes over the wire.
    """

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """As ssh and ssh-keygen show it. Source: ssh-keygen(1): SHA-256, base64 without padding."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a known_hosts file.

    Attributes:
        marker: "", `@revoked` or `@cert-authority`.
        names: The patterns, or one hashed name, as they stand there.
        where: `file:line`.
    """

    marker: str
    names: str
    key: HostKey
    where: str

    def covers(self, name: str) -> bool:
        """Whether it speaks of the host that is known as `name`."""
        return covers(self.names, name)


def known_name(host: str, port: int) -> str:
    """How a host is called in known_hosts: `[host]:port`, or the host alone on the usual port."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def covers(names: str, name: str) -> bool:
    """Whether the first field of a line speaks of `name`.

    Source: sshd(8): patterns with `*` and `?`, joined by commas, one that begins with `!` excludes; or `|1|salt|hash`,
    HMAC-SHA1 of the name.
    """
    if names.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in names[3:].split("|"))
        except (ValueError, binascii.Error):
            return False
        return hmac.compare_digest(hmac.digest(salt, name.encode(), "sha1"), digest)
    found = False
    for pattern in names.lower().split(","):
        if _glob(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def hashed(name: str, salt: bytes) -> str:
    """`name` as HashKnownHosts has it written; the salt is 20 random bytes."""
    parts = (salt, hmac.digest(salt, name.encode(), "sha1"))
    return "|1|" + "|".join(base64.b64encode(part).decode() for part in parts)


def parse(text: str, where: str) -> tuple[Entry, ...]:
    """The lines that can be read; ssh passes over the others, too."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or line.lstrip().startswith("#"):
            continue
        try:
            blob = base64.b64decode(fields[2], validate=True)
        except (ValueError, binascii.Error):
            continue
        found.append(Entry(marker, fields[0], HostKey(fields[1], blob), f"{where}:{number}"))
    return tuple(found)


def load(files: Iterable[Path]) -> tuple[Entry, ...]:
    """All lines of all files that there are, in order.

    Raises:
        BadUsage: One cannot be read.
    """
    found: list[Entry] = []
    for path in files:
        try:
            found += parse(path.read_text(errors="replace"), str(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as err:
            raise BadUsage(f"{path} cannot be read: {err.strerror}", remedy=f"chown or chmod {path}") from err
    return tuple(found)


# ---- verdicts -------------------------------------------------------------------------------------------------


class Verdict(Enum):
    """What the files say of a key."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


def judge(entries: Iterable[Entry], name: str, key: HostKey) -> tuple[Verdict, tuple[Entry, ...]]:
    """The verdict on `key`, and the lines that it rests on.

    A key of another kind than the known ones counts as changed: kinds that are known are asked for first, so a host
    shows another one only when it has lost the known ones.
    """
    mine = [e for e in entries if e.covers(name)]
    if revoked := tuple(e for e in mine if e.marker == "@revoked" and e.key == key):
        return Verdict.REVOKED, revoked
    plain = [e for e in mine if not e.marker]
    if same := tuple(e for e in plain if e.key == key):
        return Verdict.KNOWN, same
    if plain:
        return Verdict.CHANGED, tuple(e for e in plain if e.key.kind == key.kind) or tuple(plain)
    return Verdict.UNKNOWN, tuple(e for e in mine if e.marker == "@cert-authority")


def kinds(entries: Iterable[Entry], name: str) -> tuple[str, ...]:
    """The kinds of key that are known of a host, which it is to be asked for first."""
    return tuple(dict.fromkeys(e.key.kind for e in entries if not e.marker and e.covers(name)))


def demand_known(entries: Sequence[Entry], alias: str, name: str, key: HostKey, options: str = "") -> None:
    """Nothing, when the key is known.

    Args:
        entries: What is known.
        alias: How the operator calls the host.
        name: How known_hosts calls it.
        key: What the host shows.
        options: Of the command that accepts it.

    Raises:
        HostKeyUnknown: Nobody has vouched for it.
        HostKeyChanged: It is not the known one, or it is revoked.
    """
    verdict, why = judge(entries, name, key)
    places = ", ".join(e.where for e in why)
    called = alias if alias.lower() == name else f"{alias} ({name})"
    trusted = " ".join(word for word in (alias, options) if word)
    compare = f"compare it with what `ssh-keygen -lf /etc/ssh/{_file_of(key.kind)}` says on the host's own console"
    match verdict:
        case Verdict.KNOWN:
            return
        case Verdict.REVOKED:
            raise HostKeyChanged(
                f"{called} shows a key that is revoked in {places}: {key}",
                remedy="do not connect: whoever has this key may pose as the host. Give the host new keys",
            )
        case Verdict.CHANGED:
            raise HostKeyChanged(
                f"{called} shows another host key than the known one: {key}, but {places} has"
                f" {', '.join(str(e.key) for e in why)}",
                remedy=f"was the host set up anew? {compare};\n"
                f"if it is the host's: orchestrator hosts trust --replace {trusted}",
            )
        case Verdict.UNKNOWN:
            authority = f" ({places} trusts a certificate authority; host certificates are not supported)"
            raise HostKeyUnknown(
                f"the host key of {called} is not known: {key}{authority if why else ''}",
                remedy=f"{compare};\nif it is the host's: orchestrator hosts trust {trusted}",
            )


def _file_of(kind: str) -> str:
    family = "rsa" if "rsa" in kind else "ecdsa" if kind.startswith("ecdsa") else kind.removeprefix("ssh-")
    return f"ssh_host_{family}_key.pub"


def _glob(pattern: str, name: str) -> bool:
    """Only `*` and `?` are special: brackets belong to `[host]:port`."""
    words = (".*" if c == "*" else "." if c == "?" else re.escape(c) for c in pattern)
    return re.fullmatch("".join(words), name) is not None


def states(
    entries: Sequence[Entry], alias: str, name: str, keys: Sequence[HostKey], *, replace: bool
) -> dict[HostKey, str]:
    """For each key that a host shows, `known`, `new` or `changed`.

    Raises:
        HostKeyChanged: One is revoked; or one takes the place of another, and that was not asked for.
    """
    plain = [e for e in entries if not e.marker and e.covers(name)]
    same = {e.key for e in plain} & set(keys)
    found = {}
    for key in keys:
        gone = [e for e in plain if e.key.kind == key.kind and e.key not in same] or (plain if not same else [])
        found[key] = "known" if key in same else "changed" if gone else "new"
        if judge(entries, name, key)[0] is Verdict.REVOKED or (found[key] == "changed" and not replace):
            demand_known(entries, alias, name, key)
    return found


# ---- changes --------------------------------------------------------------------------------------------------


def with_keys(text: str, where: str, name: str, keys: Sequence[HostKey], *, replace: bool, salt: bytes = b"") -> str:
    """The text of a known_hosts file with `keys` for `name`.

    Args:
        text: As it is.
        where: Its file, for messages.
        name: How known_hosts calls the host.
        keys: What it shows.
        replace: Lines with other keys for the name go.
        salt: Hashes the new names; b"" leaves them readable.

    Raises:
        Refused: A line that would have to go speaks of other hosts by a pattern.
    """
    kept = [_without(line, where, name, keys) if replace else line for line in text.splitlines()]
    lines = [line for line in kept if line is not None]
    have = {e.key for e in parse("\n".join(lines), where) if not e.marker and e.covers(name)}
    shown = hashed(name, salt) if salt else name
    lines += [f"{shown} {k.kind} {base64.b64encode(k.blob).decode()}" for k in keys if k not in have]
    return "".join(f"{line}\n" for line in lines)


def _without(line: str, where: str, name: str, keys: Sequence[HostKey]) -> str | None:
    """The line without `name` when it gives the name another key; None when nothing is left of it."""
    entries = parse(line, where)
    if not entries or entries[0].marker or not entries[0].covers(name) or entries[0].key in keys:
        return line
    names = entries[0].names.split(",")
    if entries[0].names.startswith("|1|") or [n.lower() for n in names] == [name]:
        return None
    rest = [n for n in names if n.lower() != name]
    if covers(",".join(rest), name):
        raise Refused(
            f"{where} has another key for {name} in a line for several hosts: {entries[0].names}",
            remedy=f"edit that line in {where} by hand, then repeat",
        )
    return line.replace(entries[0].names, ",".join(rest), 1)


def trust(path: Path, name: str, keys: Sequence[HostKey], *, replace: bool, hash_names: bool = False) -> None:
    """Put `keys` for `name` into a file: whole or not at all, while no other process of ours does so.

    Raises:
        Refused: See `with_keys`.
    """
    real = Path(os.path.realpath(path))
    real.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(real.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = real.read_text(errors="surrogateescape") if real.exists() else ""
        mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
        salt = os.urandom(20) if hash_names else b""
        after = with_keys(before, str(path), name, keys, replace=replace, salt=salt)
        if after != before:
            _swap(real, after.encode(errors="surrogateescape"), mode)
            os.fsync(lock)
    finally:
        os.close(lock)


def _swap(path: Path, data: bytes, mode: int) -> None:
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as new:
            os.fchmod(new.fileno(), mode)
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
