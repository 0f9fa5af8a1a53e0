"""The command lines that run on a host, and what their endings mean. Pure."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Messages in English, sorted by bytes, and UTF-8 left as it is. Source: glibc falls back to C where it is missing.
LOCALE = ("env", "LC_ALL=C.UTF-8", "LANGUAGE=")
#: Between asking a command to end and killing it, in seconds.
KILL_AFTER_S = 5.0
#: How long after that the far end may take to say so. Then it counts as lost.
GRACE_S = 10.0


class Sudo(StrEnum):
    """How root is become on a host."""

    NONE = "none"  # not at all: already root, or not asked for
    FREE = "without a password"
    PASSWORD = "with a password"  # noqa: S105  words for it


# A shell reads a line byte by byte, so what follows stays for the command. Source: POSIX.1-2017, `read` and 2.6.
# Where sudo asks for no password after all, the password arrives here as the first line and must not go further.
_AFTER_SUDO = 'IFS= read -r l; [ "$l" = START ] || IFS= read -r l; exec "$@"'
# As sh's child, so that its own status tells of a signal; sshd would report that in a message of its own.
_STATUS = '"$@"; exit $?'


def wrapped(argv: Sequence[str], *, timeout_s: float, sudo: Sudo = Sudo.NONE) -> tuple[str, ...]:
    """`argv` with its locale, its end and its rights. A timeout holds on the host itself, connection or not.

    Source: timeout(1), coreutils: it makes a process group of its own and ends all of it, with 124, or 137 when it had
    to kill. sudo(8): `-k` with a command ignores cached credentials, so a password is always read, from stdin by `-S`,
    byte by byte; `-p ''` shows no prompt.
    """
    limited = (*LOCALE, "timeout", f"--kill-after={KILL_AFTER_S:g}", f"{max(0.1, timeout_s):.3f}", *argv)
    match sudo:
        case Sudo.NONE:
            return limited
        case Sudo.FREE:
            return ("sudo", "-n", "--", *limited)
        case Sudo.PASSWORD:
            return ("sudo", "-k", "-S", "-p", "", "--", "sh", "-c", _AFTER_SUDO, "sh", *limited)


def password_lines(password: str) -> bytes:
    """What goes before a command's own input with Sudo.PASSWORD."""
    return f"{password}\nSTART\n".encode()


def timed_out(rc: int, took_s: float, timeout_s: float) -> bool:
    """Whether a command of `wrapped` was ended by its timeout."""
    return (rc == 124 and took_s >= timeout_s) or (rc == 137 and took_s >= timeout_s + KILL_AFTER_S)


def line(argv: Sequence[str]) -> str:
    """`argv` as one line for a POSIX login shell, which is what sshd hands it to; its status tells of signals.

    Source: RFC 4254 section 6.5: `exec` carries one string; OpenSSH runs it as `$SHELL -c STRING`.
    """
    return shlex.join(("sh", "-c", _STATUS, "sh", *argv))


# ---- files ----------------------------------------------------------------------------------------------------

MISSING, DAMAGED, A_DIRECTORY = 66, 74, 73

_READ = f'[ -e "$1" ] || exit {MISSING}; exec cat -- "$1"'
_DIGEST = f'[ -e "$1" ] || exit {MISSING}; sha256sum < "$1"'
# The file is opened before it may have lost the rights to be written; its contents are proven before it has its name.
_WRITE = f"""set -eu; umask 077
[ ! -d "$1" ] || exit {A_DIRECTORY}
dir=$(dirname -- "$1")
new=$(mktemp -- "$dir/.$(basename -- "$1").XXXXXX")
trap 'rm -f -- "$new"' EXIT
exec 3> "$new"
[ -z "$3" ] || chown -- "$3" "$new"
chmod -- "$2" "$new"
cat >&3
exec 3>&-
[ "$(sha256sum < "$new")" = "$4  -" ] || exit {DAMAGED}
sync -- "$new"
mv -f -- "$new" "$1"
trap - EXIT
sync -- "$dir"
"""


def reading(path: str) -> tuple[str, ...]:
    """Prints a file; ends with MISSING when there is none."""
    return ("sh", "-c", _READ, "sh", path)


def digesting(path: str) -> tuple[str, ...]:
    """Prints the SHA-256 of a file, then `  -`; ends with MISSING when there is none."""
    return ("sh", "-c", _DIGEST, "sh", path)


def writing(path: str, *, mode: int, owner: str, sha256: str) -> tuple[str, ...]:
    """Makes a file of its standard input, if that has the digest; else ends with DAMAGED and leaves nothing.

    Source: sync(1), coreutils 8.24 and later: names of files are synced. mktemp(1): the file is 0600 at first.
    """
    return ("sh", "-c", _WRITE, "sh", path, f"{mode:04o}", owner, sha256)
