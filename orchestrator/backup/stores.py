"""Where snapshots are kept: one way to list, put and fetch whole files, whatever is behind it.

`open_store` reads what a person writes: a directory, `sftp://HOST/DIR`, `NODE:/DIR` or the URL of an object store.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from orchestrator.errors import BadUsage, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from orchestrator.engine.host import Completed, Host

PIECE_BYTES = 1 << 20
RECORD_BYTES = 1 << 20
OBJECT_STORES = ("s3", "gs", "az", "abfs")

_PART = re.compile(r"\.(?P<name>[^/]+)\.part-[0-9a-f]{16}")
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_ON_A_NODE = re.compile(r"(?P<node>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?):(?P<path>.*)", re.DOTALL)
#: Files cross at least at this rate, or the link counts as broken.
_SLOWEST_BYTES_S = 128 << 10
_SHORT_S = 60.0
_DAY_S = 86400.0
_MISSING = 44
_IN_THE_WAY = 45


@dataclass(frozen=True, slots=True)
class Stored:
    """A file of a store.

    Attributes:
        name: Of it, plain.
        size_bytes: Of it.
        modified: In seconds since the epoch, by the store's clock.
    """

    name: str
    size_bytes: int
    modified: float


class Store(Protocol):
    """One directory, or what stands for one. All methods raise StoreError; those over a host HostError too."""

    @property
    def url(self) -> str:
        """Where it is, for people and logs; it opens the same store again, and holds no credentials."""
        ...

    def names(self) -> tuple[Stored, ...]:
        """Its files by name, without those that are still on their way; none when it is not there yet."""
        ...

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file there. It appears whole or not at all, and has been read back from there.

        Args:
            source: Of any size.
            name: Plain; what has it is replaced.
            sha256: Of `source`, in hex.
        """
        ...

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small file there, otherwise as `put`."""
        ...

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """Copy a file from there; `target` appears whole or not at all, readable by this user only.

        Args:
            name: Of the file.
            target: What is there is replaced.
            limit_bytes: A larger one is an error; None for no limit.
        """
        ...

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        ...

    def remove(self, name: str) -> None:
        """Take a file away; that it is not there is fine."""
        ...

    def free_bytes(self) -> int | None:
        """How much there is room for; None where that is not known."""
        ...

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """The files that runs which were killed have left there half-written, which are removed.

        Args:
            older_than_s: Younger ones stay: another run may be writing them.
            now: In seconds since the epoch.
        """
        ...


def open_store(text: str, *, host: Callable[[str], Host] | None) -> Store:
    """The store that a person means.

    Args:
        text: A directory, `file:///DIR`, `sftp://[USER@]HOST[:PORT]/DIR` (`/~/DIR` from the user's home directory),
            `NODE:/DIR` for the disk of a node, or `s3://`, `gs://`, `az://` or `abfs://` with bucket and prefix.
        host: `sftp://[USER@]HOST[:PORT]` or the name of a node -> that host; None where there are none to be had.

    Raises:
        BadUsage: It cannot be meant.
    """
    from orchestrator.backup.directory import DirectoryStore  # noqa: PLC0415  it needs this module
    from orchestrator.backup.objectstore import ObjectStore  # noqa: PLC0415

    if not text.strip() or "\0" in text or "\n" in text:
        raise BadUsage("a destination without a name cannot be meant", remedy=_KNOWN)
    if match := _SCHEME.match(text):
        scheme = match[1].lower()
        _without_credentials(text, scheme)
        if scheme in OBJECT_STORES:
            return ObjectStore(text)
        if scheme == "file":
            return DirectoryStore(_of_file_url(text))
        if scheme == "sftp":
            return _over_sftp(text, host)
        raise BadUsage(f"destinations of the kind {scheme}:// are not known", remedy=_KNOWN)
    if match := on_a_node(text):
        return _on_node(match["node"], match["path"], host)
    return DirectoryStore(Path(text).expanduser())


def on_a_node(text: str) -> re.Match[str] | None:
    """Whether a place is on the disk of a node: `node` and `path` of it."""
    return None if _SCHEME.match(text) or text.startswith(("/", ".", "~")) else _ON_A_NODE.fullmatch(text)


def parent(text: str) -> tuple[str, str]:
    """Of a stored file as a person names it: its store, as for `open_store`, and its name there.

    Raises:
        BadUsage: It names no file.
    """
    head, mark, query = text.partition("?") if _SCHEME.match(text) else (text, "", "")
    where, slash, name = head.rpartition("/")
    if not plain(name) or where.endswith(":/") or (slash and not where and not name):
        raise BadUsage(f"{text} names no file", remedy="give the file's name too: DESTINATION/NAME.db")
    if not slash:
        return ".", name
    return (where + "/" if not where or where.endswith(":") else where) + mark + query, name


_KNOWN = (
    "give a directory, file:///DIR, sftp://[USER@]HOST[:PORT]/DIR, NODE:/DIR,"
    " s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX"
)


def _without_credentials(text: str, scheme: str) -> None:
    """Raises BadUsage when a URL holds a password, which is not repeated."""
    authority = text.partition("://")[2].partition("/")[0]
    user, at, _ = authority.rpartition("@")
    if at and (":" in user or scheme not in ("sftp", "az", "abfs")):
        ways = {
            "sftp": "use an SSH key, or an agent",
            "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment",
            "gs": "set GOOGLE_APPLICATION_CREDENTIALS in the environment to the file with the key",
            "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in the environment",
        }
        raise BadUsage(
            f"a destination must not hold credentials: this {scheme}:// URL has some before its @",
            remedy=f"take them out: {ways.get(scheme, ways['az' if scheme == 'abfs' else 's3'])}",
        )


def _of_file_url(text: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.strip("/") or parts.query or parts.fragment:
        raise BadUsage(f"{text} names no directory of this machine", remedy="write file:///DIR, or just the directory")
    return Path(unquote(parts.path))


def _over_sftp(text: str, host: Callable[[str], Host] | None) -> Store:
    from orchestrator.backup.sftp import AccountStore  # noqa: PLC0415  it needs this module

    parts = urlsplit(text)
    path = unquote(parts.path)
    directory = f"./{path[3:]}" if path.startswith("/~/") else path
    if not parts.hostname or not directory.strip("/.") or parts.query or parts.fragment:
        raise BadUsage(f"{text} names no directory of a host", remedy="write sftp://[USER@]HOST[:PORT]/DIR")
    with contextlib.suppress(ValueError):
        if parts.port != 0:
            return AccountStore(_made(host, f"sftp://{parts.netloc}", text), directory, text)
    raise BadUsage(f"{text} has no port that can be", remedy="write sftp://[USER@]HOST[:PORT]/DIR")


def _on_node(node: str, path: str, host: Callable[[str], Host] | None) -> Store:
    text = f"{node}:{path}"
    if not path.startswith("/") or path.startswith("//") or not path.strip("/"):
        raise BadUsage(
            f"{text} is neither a directory of a node nor a URL",
            remedy=f"write {node}:/DIR for one on node {node}, or ./{text} for one here",
        )
    return HostStore(_made(host, node, text), path, text, sudo=True)


def _made(host: Callable[[str], Host] | None, wanted: str, text: str) -> Host:
    if host is None:
        raise BadUsage(f"{text} is on another machine, which cannot be reached from here", remedy=_KNOWN)
    return host(wanted)


# ---- what the stores share --------------------------------------------------------------------------------------


def plain(name: str) -> bool:
    """It names a file and nothing else, and is not hidden."""
    return bool(name) and not name.startswith(".") and "/" not in name and name.isprintable()


def checked(name: str, url: str) -> str:
    """`name`, which has to be plain.

    Raises:
        StoreError: It is not.
    """
    if not plain(name):
        raise StoreError(
            f"{url}: {name!r} is no plain name of a file", remedy="use letters, digits, dots and dashes only"
        )
    return name


def part_of(name: str) -> str:
    """What a file is called while it is written."""
    return f".{name}.part-{secrets.token_hex(8)}"


def left_over(file: Stored, older_than_s: float, now: float) -> bool:
    """A run has left it, and none that still runs."""
    return bool(_PART.fullmatch(file.name)) and file.modified <= now - older_than_s


def differs(url: str, name: str, found: str, wanted: str) -> StoreError:
    """The error for a file that was read back and is not what was to be sent."""
    return StoreError(
        f"{url}: {name} was read back and is not what was to be stored: sha256 {found[:16]}… instead of {wanted[:16]}…;"
        " it was removed",
        remedy="check memory, disk and network of both ends, then repeat; if it persists, use another destination",
    )


def missing(url: str, name: str) -> StoreError:
    """The error for a file that is not there."""
    return StoreError(f"{url}: there is no {name}", remedy="see what is there: orchestrator etcd list")


def too_large(url: str, name: str, limit_bytes: int) -> StoreError:
    """The error for a file that is not what it should be."""
    return StoreError(
        f"{url}: {name} is larger than {limit_bytes} bytes, which is all that was expected",
        remedy="see what wrote that file",
    )


def size_of(source: Path) -> int:
    """Bytes of a local file that is to be stored.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with source.open("rb") as file:
            return os.fstat(file.fileno()).st_size
    except OSError as err:
        raise _unreadable(source, err) from err


def pieces_of(source: Path, piece_bytes: int = PIECE_BYTES) -> Generator[bytes, None, None]:
    """A local file, piece by piece.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        with source.open("rb") as file:
            while piece := file.read(piece_bytes):
                yield piece
    except OSError as err:
        raise _unreadable(source, err) from err


def _unreadable(source: Path, err: OSError) -> StoreError:
    return StoreError(f"{source} cannot be read: {err.strerror}", remedy=f"look at it: ls -ld {source}")


@contextlib.contextmanager
def landing(target: Path) -> Iterator[Path]:
    """The name that a local file has until it is whole, which the end of the block makes it.

    Raises:
        StoreError: It cannot be written. Nothing is left then.
    """
    part = target.with_name(part_of(target.name))
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(target)
    except OSError as err:
        raise StoreError(
            f"{target} cannot be written: {err.strerror}",
            remedy=f"look at rights and free space there: ls -ld {target.parent}; df -h {target.parent}",
        ) from err
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def arriving(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes a local file that only this user reads, and that appears at the end of the block, as `landing`."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with landing(target) as part, open(os.open(part, flags, 0o600), "wb") as file:  # noqa: PTH123  it is open already
        yield file.write


# ---- another machine --------------------------------------------------------------------------------------------

# Of POSIX, but for `stat -c`, `sync FILE` and sha256sum, which GNU and BusyBox have. $1 is the directory.
_WRITE = (
    'umask 077; mkdir -p -- "$1" && cd -- "$1" || exit; rm -f -- "$2"; set -C;'
    ' { cat > "$2" && { sync -- "$2" 2>/dev/null || sync; }; } || { rc=$?; rm -f -- "$2"; exit $rc; }'
)
#: `mv` goes into a directory, and through a link to one.
_RENAME = (
    f'cd -- "$1" || exit; if [ -L "$3" ]; then rm -f -- "$3"; fi; if [ -d "$3" ]; then exit {_IN_THE_WAY}; fi;'
    ' mv -f -- "$2" "$3" && { sync -- . 2>/dev/null || sync; }'
)
_LIST = (
    'if [ ! -e "$1" ]; then exit 0; fi; cd -- "$1" || exit;'
    " find . ! -name . -prune -type f -exec stat -c '%s %Y %n' {} +"
)
_HASH = 'cd -- "$1" && sha256sum < "$2"'
_READ = f'cd -- "$1" 2>/dev/null && [ -f "$2" ] && [ ! -L "$2" ] || exit {_MISSING}; head -c "$3" < "$2"'
_REMOVE = 'if [ ! -e "$1" ]; then exit 0; fi; cd -- "$1" || exit; shift; rm -f -- "$@"'
_FREE = 'd=$1; while [ ! -e "$d" ]; do d=$(dirname -- "$d"); done; df -Pk -- "$d"'
_WITHOUT_LIMIT = 1 << 62


class HostStore:
    """A directory of another machine.

    Args:
        host: The machine.
        directory: On it; made, for its user only, when it is missing. One that begins with `./` is the user's.
        url: Of both together.
        sudo: As root; else as the user who logged in.
    """

    def __init__(self, host: Host, directory: str, url: str, *, sudo: bool = False) -> None:
        self._host = host
        self._directory = directory.rstrip("/") or "/"
        self._url = url
        self._sudo = sudo

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    def names(self) -> tuple[Stored, ...]:
        """Its files by name."""
        return tuple(file for file in self._files() if plain(file.name))

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file there."""
        self._put(source, size_of(source), checked(name, self.url), sha256)

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small file there."""
        self._put(content, len(content), checked(name, self.url), hashlib.sha256(content).hexdigest())

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """Copy a file from there."""
        with landing(target) as part:
            self._fetch(checked(name, self.url), part, limit_bytes)

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        done = self._run(_READ, checked(name, self.url), str(limit_bytes + 1), private=True)
        content = self._found(done, name).stdout
        if len(content) > limit_bytes:
            raise too_large(self.url, name, limit_bytes)
        return content

    def remove(self, name: str) -> None:
        """Take a file away."""
        self._wish(self._run(_REMOVE, checked(name, self.url)), f"{name} cannot be removed")

    def free_bytes(self) -> int | None:
        """How much there is room for; None when `df` does not tell."""
        words = self._run(_FREE).text.rpartition("\n")[2].split()
        return int(words[3]) * 1024 if len(words) > 5 and words[3].isdigit() else None

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """The half-written files that are removed."""
        old = tuple(file.name for file in self._files() if left_over(file, older_than_s, now))
        if old:
            self._wish(self._run(_REMOVE, *old), "what is left of other runs cannot be removed")
        return old

    def _files(self) -> list[Stored]:
        done = self._wish(self._run(_LIST), "it cannot be listed")
        found = re.findall(r"^(\d+) (-?\d+) \./(.+)$", done.stdout.decode(errors="replace"), re.MULTILINE)
        return sorted(
            (Stored(name, int(size), float(modified)) for size, modified, name in found), key=lambda file: file.name
        )

    def _put(self, source: Path | bytes, size_bytes: int, name: str, sha256: str) -> None:
        part = part_of(name)
        try:
            sent = self._run(_WRITE, part, stdin=source, size_bytes=size_bytes)
            self._wish(sent, f"{name} ({size_bytes} bytes) cannot be written")
            if (found := self._hash(part, size_bytes)) != sha256:
                raise differs(self.url, name, found, sha256)
            renamed = self._run(_RENAME, part, name)
            if renamed.rc == _IN_THE_WAY:
                raise StoreError(f"{self.url}: {name} is a directory there", remedy="move it away, then repeat")
            self._wish(renamed, f"{name} cannot be given its name")
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what counts; `tidy` comes later
                self._run(_REMOVE, part)
            raise

    def _hash(self, name: str, size_bytes: int) -> str:
        """SHA-256 of a file there, counted there, or here where that machine has no tool for it."""
        done = self._run(_HASH, name, size_bytes=size_bytes)
        if done.rc == 127:
            with tempfile.TemporaryDirectory(prefix="orchestrator-") as scratch:
                copy = Path(scratch) / "copy"
                self._fetch(name, copy, None)
                with copy.open("rb") as file:
                    return hashlib.file_digest(file, "sha256").hexdigest()
        return self._wish(done, f"{name} cannot be read back").text.partition(" ")[0]

    def _fetch(self, name: str, to: Path, limit_bytes: int | None) -> None:
        most = str(_WITHOUT_LIMIT if limit_bytes is None else limit_bytes + 1)
        self._found(self._run(_READ, name, most, stdout_to=to, timeout_s=_DAY_S), name)
        if limit_bytes is not None and to.stat().st_size > limit_bytes:
            raise too_large(self.url, name, limit_bytes)

    def _found(self, done: Completed, name: str) -> Completed:
        if done.rc == _MISSING:
            raise missing(self.url, name)
        return self._wish(done, f"{name} cannot be read")

    def _wish(self, done: Completed, what: str) -> Completed:
        """`done`, which has to have gone well."""
        if done.rc == 0:
            return done
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][-200:]
        raise StoreError(
            f"{self.url}: {what}: {said or f'it ended with {done.rc}'}",
            remedy=f"look at it on {self._host.name}: ls -ld {(q := shlex.quote(self._directory))}; df -h {q}",
        )

    def _run(
        self,
        script: str,
        *words: str,
        stdin: bytes | Path = b"",
        size_bytes: int = 0,
        stdout_to: Path | None = None,
        timeout_s: float | None = None,
        private: bool = False,
    ) -> Completed:
        return self._host.run(
            ["sh", "-c", script, "sh", self._directory, *words],
            timeout_s=timeout_s or _SHORT_S + size_bytes / _SLOWEST_BYTES_S,
            stdin=stdin,
            sudo=self._sudo,
            repeatable=True,
            private=private,
            stdout_to=stdout_to,
        )
