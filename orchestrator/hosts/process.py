"""A local process to its end: what this machine's and the containers' commands run by."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

from orchestrator.errors import HostConnectionLost, HostLacks, HostUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.errors import HostError
    from orchestrator.hosts.output import Output

READ_BYTES = 1 << 16
#: What a command left running may hold its output open; after its end, output is read until it is quiet this long.
QUIET_S = 0.5
_LOOK_S = 0.2


def execute(
    name: str,
    argv: Sequence[str],
    *,
    stdin: Iterator[bytes],
    output: Output,
    deadline_s: float,
    repeatable: bool,
    env: Mapping[str, str] | None = None,
) -> int:
    """Run `argv` in a session of its own; its exit status, 128 and more for a signal. See `machine.Transport`."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env=env,
        )
    except OSError as err:
        raise HostUnreachable(
            f"{name}: {argv[0]} cannot be started: {err.strerror}", remedy=f"install {argv[0]}, or put it on PATH"
        ) from err
    with process:
        try:
            _Pump(process, stdin, output, time.monotonic() + deadline_s).run()
        except TimeoutError as err:
            raise lost(name, f"no end within {deadline_s:.0f} s", repeatable=repeatable) from err
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):  # gone, or root's by sudo
                    os.killpg(process.pid, signal.SIGKILL)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode


def lost(name: str, why: str, *, repeatable: bool) -> HostError:
    """The error for a command whose end is not known."""
    if repeatable:
        return HostUnreachable(f"{name}: the connection broke: {why}", remedy=f"is {name} up, and the network to it?")
    return HostConnectionLost(
        f"{name}: the connection broke while a command ran: {why}",
        remedy=f"look on {name} whether it still runs or has taken effect, before it is repeated",
    )


def no_service(name: str, service: str) -> HostLacks:
    """The error for a machine that is not reached by SSH."""
    return HostLacks(f"{name}: {service} is a service of SSH, which it is not reached by", remedy="reach it by SSH")


class _Pump:
    """Moves the bytes of one process in one thread, until it has ended and is quiet."""

    def __init__(
        self, process: subprocess.Popen[bytes], stdin: Iterator[bytes], output: Output, deadline: float
    ) -> None:
        self._process = process
        self._stdin = stdin
        self._rest = b""
        self._deadline = deadline
        self._takes: dict[IO[bytes], Callable[[bytes], None]] = {}
        self._selector = selectors.DefaultSelector()
        for stream, take in ((process.stdout, output.out), (process.stderr, output.err)):
            assert stream is not None  # noqa: S101  it was asked for
            self._takes[stream] = take
            self._selector.register(stream, selectors.EVENT_READ)
        assert process.stdin is not None  # noqa: S101
        os.set_blocking(process.stdin.fileno(), False)
        self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def run(self) -> None:
        """Raises TimeoutError at the deadline."""
        with self._selector:
            heard = time.monotonic()
            while self._takes:
                now = time.monotonic()
                if now >= self._deadline:
                    raise TimeoutError
                ended = self._process.poll() is not None  # what it said before that is in the pipe, and read next
                events = self._selector.select(min(_LOOK_S, self._deadline - now))
                if any([self._move(key.fileobj) for key, _ in events]):  # noqa: C419  all of them are moved
                    heard = time.monotonic()
                elif ended and time.monotonic() - heard >= QUIET_S:
                    break
        try:
            self._process.wait(max(0.1, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired as err:
            raise TimeoutError from err

    def _move(self, stream: Any) -> bool:
        """Bytes one way or the other; whether something was heard."""
        if stream not in self._takes:
            self._feed(stream)
            return False
        chunk = os.read(stream.fileno(), READ_BYTES)
        if chunk:
            self._takes[stream](chunk)
        else:
            self._selector.unregister(stream)
            del self._takes[stream]
        return True

    def _feed(self, stream: Any) -> None:
        try:
            self._rest = self._rest or next(self._stdin, b"")
            if self._rest:
                self._rest = self._rest[os.write(stream.fileno(), self._rest) :]
                return
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass  # it reads no more, which is its own affair
        self._selector.unregister(stream)
        stream.close()
