"""Asks addresses again and again, each time over a new connection, whether or not earlier answers have come.

It runs on nodes too, whose Python has little more than sockets and threads: it imports nothing else.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

RIGHT = "ok"
_BLOCK = 65536


def fetch(
    host: str,
    port: int,
    path: str,
    *,
    timeout_s: float,
    wrap: Callable[[socket.socket], socket.socket] | None = None,
) -> tuple[int, bytes]:
    """The status and the body of an answer, over a connection of its own.

    Args:
        host: Address.
        port: Its port.
        path: What is asked for.
        timeout_s: For all of it: connecting, TLS, the last byte.
        wrap: Makes a TLS connection of a plain one.

    Raises:
        OSError: There was none in that time.
        ValueError: It is no answer in HTTP, or ends too early.
    """
    deadline = time.monotonic() + timeout_s
    plain = socket.create_connection((host, port), timeout_s)
    with plain:
        _hurry(plain, deadline)
        connection = wrap(plain) if wrap else plain
        with connection:
            # With HTTP/1.0 the end of the connection is the end of the answer.
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
            answer = b""
            while True:
                _hurry(connection, deadline)
                block = connection.recv(_BLOCK)
                if not block:
                    return _parse(answer)
                answer += block


def _hurry(connection: socket.socket, deadline: float) -> None:
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(left_s)


def _parse(answer: bytes) -> tuple[int, bytes]:
    head, end, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if not end or len(words) < 2 or not words[1].isdigit():
        raise ValueError("closed without an answer")
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and int(value) != len(body):
            raise ValueError("cut short")
    return int(words[1]), body


def verdict(ask: Callable[[], tuple[int, bytes]], expected: Callable[[bytes], bool]) -> str:
    """RIGHT, or in one line what was wrong with an answer."""
    try:
        status, body = ask()
    except (OSError, ValueError) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    if status != 200:
        return f"status {status}"
    return RIGHT if expected(body) else f"another content: {body[:40]!r}"


def keep_asking(
    ask: Callable[[], str], note: Callable[[float, float, str], None], over: threading.Event, *, every_s: float
) -> None:
    """Ask at even intervals until `over`, in a thread each; returns when the last answer has been noted."""
    pending: list[threading.Thread] = []

    def once() -> None:
        asked_at, began = time.time(), time.monotonic()
        said = ask()
        note(asked_at, time.monotonic() - began, said)

    due = time.monotonic()
    while not over.wait(max(0.0, due - time.monotonic())):
        pending = [one for one in pending if one.is_alive()]
        pending.append(threading.Thread(target=once, daemon=True))
        pending[-1].start()
        due = max(due + every_s, time.monotonic())  # what was missed while the machine stood still stays missed
    for one in pending:
        one.join()


class Log:
    """A file with one line for each answer; those that it cannot take now, it gets later."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._waiting: list[str] = []
        self._lock = threading.Lock()

    def add(self, name: str, asked_at: float, took_s: float, said: str) -> None:
        """One line: whom, when as seconds since 1970, how long, what."""
        with self._lock:
            self._waiting.append(f"{name} {asked_at:.3f} {took_s:.3f} {said}\n")
            try:
                with open(self._path, "a", encoding="utf-8") as log:  # noqa: PTH123 - no pathlib on nodes
                    log.write("".join(self._waiting))
            except OSError:  # the disk may be full
                return
            self._waiting.clear()


def main(argv: list[str]) -> None:
    """Ask until SIGTERM: `LOG EVERY_S TIMEOUT_S`, then `NAME HOST PORT PATH BODY` of each address; `-` for any body."""
    path, every_s, timeout_s, *rest = argv
    log, over = Log(path), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    def asker(name: str, host: str, port: str, where: str, body: str) -> threading.Thread:
        def ask() -> str:
            return verdict(
                lambda: fetch(host, int(port), where, timeout_s=float(timeout_s)),
                lambda found: body == "-" or found.decode(errors="replace").strip() == body,
            )

        def note(asked_at: float, took_s: float, said: str) -> None:
            log.add(name, asked_at, took_s, said)

        return threading.Thread(target=keep_asking, args=(ask, note, over), kwargs={"every_s": float(every_s)})

    threads = [asker(*rest[first : first + 5]) for first in range(0, len(rest), 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # a join without an end would keep the signal's handler from running
            thread.join(0.2)


if __name__ == "__main__":
    main(sys.argv[1:])
