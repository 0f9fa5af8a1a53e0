"""The private keys of this user: from an agent, and from files, whose passphrases are asked for once."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Any

import paramiko
import paramiko.agent

from orchestrator.errors import HostAuthFailed
from orchestrator.hosts.known import HostKey

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from orchestrator.hosts.config import Hop
    from orchestrator.hosts.secrets import Secrets

AGENT_S = 5.0


class Keyring:
    """Keys as hosts are to be offered them. Safe in threads."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._loaded: dict[Path, Any] = {}
        self._mutex = threading.Lock()

    def offers(self, hop: Hop) -> Generator[tuple[str, Any]]:
        """Each key with words for it, in the order in which OpenSSH offers them.

        The agent's come first, of these the ones that are also in files; then files without a passphrase, then the
        others, whose passphrases are asked for only when it comes to them.

        Source: ssh_config(5), IdentitiesOnly; sshconnect2.c, `pubkey_prepare`.
        """
        named = {blob: path for path in hop.key_files if (blob := _public(path))}
        offered = set()
        with _agent_keys(hop.agent) as keys:
            for key in sorted(keys, key=lambda k: k.asbytes() not in named):
                if key.asbytes() in named or not hop.identities_only:
                    offered.add(key.asbytes())
                    yield f"{HostKey(key.get_name(), key.asbytes())} of the agent", key
        locked = []
        for path in hop.key_files:
            key = self._open(path, b"")
            if key is None:
                locked.append(path)
            elif key.asbytes() not in offered:
                yield str(path), key
        for path in locked:
            if _public(path) not in offered:
                yield str(path), self._unlocked(path)

    def _open(self, path: Path, passphrase: bytes) -> Any | None:
        """The key in a file; None when it wants another passphrase.

        Raises:
            HostAuthFailed: It holds no key that can be read.

        Source: cryptography raises TypeError for a key that is locked, ValueError for a wrong passphrase.
        """
        with self._mutex:
            if path in self._loaded:
                return self._loaded[path]
        try:
            key = paramiko.PKey.from_path(path, passphrase or None)  # type: ignore[arg-type,unused-ignore]
        except TypeError:
            return None
        except Exception as err:  # the library raises whatever its parsers do
            if passphrase:
                return None
            raise HostAuthFailed(
                f"{path} holds no private key that can be used: {str(err)[:256] or type(err).__name__}",
                remedy=f"`ssh-keygen -yf {path}` has to read it; or take it out of ~/.ssh/config",
            ) from err
        with self._mutex:
            return self._loaded.setdefault(path, key)

    def _unlocked(self, path: Path) -> Any:
        prompt = f"passphrase of {path}"
        while (passphrase := self._secrets.secret(prompt)) is not None:
            key = self._open(path, passphrase.encode())
            if key is not None:
                return key
            if not self._secrets.wrong(prompt, passphrase):
                raise HostAuthFailed(f"this is not the passphrase of {path}", remedy="repeat, with the right one")
        raise HostAuthFailed(
            f"{path} is locked by a passphrase, and there is nobody to ask",
            remedy=f"ssh-add {path}   # where this runs; or run it on a terminal",
        )


def _public(path: Path) -> bytes:
    """The public half that lies beside a private key, or b""."""
    try:
        text = path.with_name(f"{path.name}.pub").read_text()
    except (OSError, UnicodeDecodeError):
        return b""
    blob: bytes = b""
    with contextlib.suppress(Exception):  # not a key: then it says nothing of one
        blob = paramiko.PublicBlob.from_string(text).key_blob
    return blob


@contextlib.contextmanager
def _agent_keys(path: str) -> Iterator[tuple[Any, ...]]:
    """The keys of the agent at `path`, usable while the context lasts; none when it does not answer.

    A connection for each user of it: paramiko's is not safe in threads.
    """
    if not path:
        yield ()
        return
    agent = paramiko.agent.AgentSSH()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(AGENT_S)
        keys: tuple[Any, ...] = ()
        with contextlib.suppress(OSError, paramiko.SSHException):  # an agent that is gone has no keys
            connection.connect(path)
            agent._connect(connection)  # noqa: SLF001  its own way in reads only $SSH_AUTH_SOCK
            keys = agent.get_keys()
        yield keys
