"""Keys of age and SSH: whom files are encrypted for, and what opens them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from orchestrator.errors import BadUsage, SnapshotInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Source: age-encryption.org/v1, "The header" and "ASCII armor".
ENCRYPTED = (b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----")
_IDENTITY = "AGE-SECRET-KEY-1"
_SECRET = ("AGE-SECRET-KEY-", "AGE-PLUGIN-", "-----BEGIN")
#: Of identity files; the longest, an RSA key of 16384 bits, has 13 KB.
_MOST_IDENTITY_BYTES = 1 << 20


class Recipient(Protocol):
    """Whom a file is encrypted for."""


class Identity(Protocol):
    """What a file is decrypted with."""


def check_recipients(texts: Sequence[str]) -> tuple[str, ...]:
    """The public keys that are meant, each once, in their order; without the comments of SSH keys.

    Args:
        texts: Recipients of age (`age1…`), public keys of SSH (`ssh-ed25519 …`, `ssh-rsa …`), or `@FILE` for a file
            with one of them a line; its empty lines and those that begin with # do not count.

    Raises:
        BadUsage: One of them is none, or the file cannot be read.
    """
    found: list[str] = []
    for text in texts:
        if text.startswith("@"):
            found += _listed(Path(text[1:]))
        else:
            found.append(_public(text, "--recipient"))
    return tuple(dict.fromkeys(found))


def recipient(text: str) -> Recipient:
    """The key of age or SSH that a text is.

    Raises:
        pyrage.RecipientError: It is none.
    """
    from pyrage import ssh, x25519  # type: ignore[import-untyped]  # noqa: PLC0415

    found: Recipient = (ssh if text.startswith("ssh-") else x25519).Recipient.from_str(text)
    return found


def _public(text: str, where: str) -> str:
    import pyrage  # noqa: PLC0415

    words = text.split()
    if text.strip().startswith(_SECRET):
        raise BadUsage(
            f"{where}: that is an identity, which is secret, and not a recipient",
            remedy="give the public key instead: age-keygen -y FILE, or FILE.pub of an SSH key",
        )
    shown = " ".join(words)[:40]
    key = " ".join(words[:2]) if shown.startswith("ssh-") else " ".join(words)
    try:
        recipient(key)
    except pyrage.RecipientError as err:
        raise BadUsage(
            f"{where}: `{shown}` is no recipient: {err}",
            remedy="give age1… (of `age-keygen -y FILE`), an ssh-ed25519 or ssh-rsa public key, or @FILE with such",
        ) from err
    return key


def _listed(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise BadUsage(
            f"--recipient @{path} cannot be read: {err}", remedy="give a file with one recipient a line"
        ) from err
    wanted = {number: line for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    if not wanted:
        raise BadUsage(f"--recipient @{path} names no recipient", remedy="put one age1… a line into it")
    return [_public(line, f"--recipient @{path}, line {number}") for number, line in wanted.items()]


def opening(source: Path, paths: Sequence[Path]) -> list[Identity]:
    """All that the files hold, for a file that is encrypted.

    Raises:
        SnapshotInvalid: None was given.
        BadUsage: One of them cannot be used.
    """
    if not paths:
        raise SnapshotInvalid(
            f"{source} is encrypted, and no identity was given",
            remedy="give the file with the identity of one of the recipients in its record: --identity FILE",
        )
    return [identity for path in paths for identity in _read_identities(path)]


def _read_identities(path: Path) -> list[Identity]:
    from pyrage import IdentityError, ssh, x25519  # noqa: PLC0415

    content = _secret(path)
    try:
        if content.startswith(b"-----BEGIN") and not content.startswith(ENCRYPTED):
            return [ssh.Identity.from_buffer(content)]
        lines = [line.strip() for line in content.decode("ascii", errors="replace").splitlines()]
        if found := [x25519.Identity.from_str(line) for line in lines if line.startswith(_IDENTITY)]:
            return found
    except IdentityError as err:
        raise BadUsage(
            f"{path} holds an identity that cannot be used: {err}",
            remedy="give one without a passphrase, of age (AGE-SECRET-KEY-1…) or an ed25519 or RSA key of SSH",
        ) from err
    if content.startswith(ENCRYPTED):
        raise BadUsage(
            f"{path} is itself encrypted", remedy=f"decrypt it into memory first: age -d {path} >/dev/shm/id"
        )
    raise BadUsage(f"{path} holds no identity", remedy="give a file with a line AGE-SECRET-KEY-1…, as of age-keygen")


def _secret(path: Path) -> bytes:
    """The contents of a file that only its owner reads."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MOST_IDENTITY_BYTES)
    except OSError as err:
        raise BadUsage(
            f"{path} cannot be read: {err.strerror}", remedy=f"look at it: ls -l {path}; give another by --identity"
        ) from err
    if mode & 0o077:
        raise BadUsage(
            f"{path} holds an identity, and others than its owner may read it (mode {mode & 0o777:04o})",
            remedy=f"chmod 600 {path}",
        )
    return content
