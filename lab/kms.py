"""A key management plugin on a socket of this machine: what encryption at rest by KMS is tried with.

    python -m lab.kms SOCKET KEY

Source: k8s.io/kms 1.36, `apis/v2/api.proto`.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lab.processes import TIED_TO_US, Daemon, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 30
_SERVICE = "v2.KeyManagementService"
_KEY_ID = b"lab"
_NONCE_BYTES = 12


def provider(endpoint: str) -> dict[str, Any]:
    """A plugin as a provider of encryption at rest, by the URL of its socket as the API server has it."""
    return {"kms": {"apiVersion": "v2", "name": "lab", "endpoint": endpoint, "timeout": "10s"}}


def configuration(*providers: dict[str, Any]) -> dict[str, Any]:
    """An API server's EncryptionConfiguration: Secrets, by these providers."""
    return {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": list(providers)}],
    }


@dataclass(frozen=True, slots=True)
class Plugin:
    """One that runs, or ran.

    Attributes:
        directory: All of it. Its name is short: that of a socket has to be.
    """

    directory: Path

    @property
    def socket(self) -> Path:
        """Where API servers ask."""
        return self.directory / "kms.sock"

    @property
    def provider(self) -> dict[str, Any]:
        """Of encryption at rest, in an API server's configuration, on this machine."""
        return provider(f"unix://{self.socket}")

    def start(self) -> None:
        """Start it, and wait until it has its socket; its key is the same each time."""
        key = self.directory / "key"
        if not key.exists():
            key.write_bytes(AESGCM.generate_key(256))
        self._daemon.start([*TIED_TO_US, sys.executable, "-m", "lab.kms", str(self.socket), str(key)])
        log = self._daemon.log
        wait_for("the KMS plugin", self.socket.exists, timeout_s=START_S, pause_s=0.02, remedy=f"see {log}")

    def stop(self) -> None:
        """End it."""
        self._daemon.stop()
        self.socket.unlink(missing_ok=True)

    @property
    def _daemon(self) -> Daemon:
        return Daemon("kms", self.directory / "kms.pid", self.directory / "kms.log")


@contextmanager
def running(directory: Path) -> Iterator[Plugin]:
    """A plugin in a new directory for as long as the context lasts; it ends with this process, however that ends."""
    directory.mkdir(mode=0o700, parents=True)
    made = Plugin(directory)
    made.start()
    try:
        yield made
    finally:
        made.stop()


class _Answers:
    """To the three questions of the protocol, by one key."""

    def __init__(self, key: bytes) -> None:
        self._key = AESGCM(key)

    def status(self, _request: bytes, _context: object) -> bytes:
        return _field(1, b"v2") + _field(2, b"ok") + _field(3, _KEY_ID)

    def encrypt(self, request: bytes, _context: object) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _field(1, nonce + self._key.encrypt(nonce, _read(request, 1), None)) + _field(2, _KEY_ID)

    def decrypt(self, request: bytes, _context: object) -> bytes:
        sealed = _read(request, 1)
        return _field(1, self._key.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes. Source: Protocol Buffers, "Encoding"."""
    length, left = b"", len(content)
    while left >= 0x80:
        length += bytes([left & 0x7F | 0x80])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + content


def _read(message: bytes, wanted: int) -> bytes:
    """A field of bytes among others of bytes."""
    at = 0
    while at < len(message):
        number, at, length, shift = message[at] >> 3, at + 1, 0, 0
        while message[at] & 0x80:
            length |= (message[at] & 0x7F) << shift
            at, shift = at + 1, shift + 7
        length |= message[at] << shift
        at += 1
        if number == wanted:
            return message[at : at + length]
        at += length
    return b""


def _serve(socket: str, key: Path) -> None:
    import grpc  # noqa: PLC0415  not in each process that starts one

    answers = _Answers(key.read_bytes())
    asked = {"Status": answers.status, "Encrypt": answers.encrypt, "Decrypt": answers.decrypt}
    handlers = {name: grpc.unary_unary_rpc_method_handler(answer) for name, answer in asked.items()}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    threading.Event().wait()


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
