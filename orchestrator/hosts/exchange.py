"""What goes over one channel of SSH: a command with its input and output, or a conversation with a subsystem."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import paramiko

from orchestrator.hosts.process import QUIET_S, READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestrator.errors import HostError
    from orchestrator.hosts.output import Output

_LOOK_S = 0.25


class RequestRefused(paramiko.SSHException):  # type: ignore[misc]
    """The host is there, and does not start what was asked for."""


@contextlib.contextmanager
def _answered(channel: paramiko.Channel, late: Callable[[], bool]) -> Iterator[None]:
    """The block asks a channel for something; a no becomes RequestRefused.

    Source: paramiko 5.1 `Channel._request_failed`: a channel that is refused something is closed with an EOF, one
    whose connection broke (`_unlink`) without; both raise the same.
    """
    try:
        yield
    except paramiko.SSHException as err:
        if channel.eof_sent and not late():
            raise RequestRefused("the server refused the request") from err
        raise


def end(channel: paramiko.Channel) -> None:
    """Close a channel, also of a connection that broke, of which whoever uses the channel is told."""
    with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
        channel.close()


def subsystem(channel: paramiko.Channel, service: str, silence_s: float) -> None:
    """Have a channel lead to a subsystem.

    Raises:
        RequestRefused: There is none of that name.
        TimeoutError: No answer in time.
        paramiko.SSHException, EOFError, OSError: The connection broke.

    Source: RFC 4254, 6.5.
    """
    until = time.monotonic() + silence_s
    clock = threading.Timer(silence_s, end, [channel])  # the library waits for the answer for ever
    clock.daemon = True
    clock.start()
    try:
        with _answered(channel, lambda: time.monotonic() >= until):
            channel.invoke_subsystem(service)
    except paramiko.SSHException as err:
        if time.monotonic() >= until:
            raise TimeoutError from err
        raise
    finally:
        clock.cancel()


class ChannelStream:
    """Both directions of a channel, as `engine.host.Stream`."""

    def __init__(self, channel: paramiko.Channel, lost: Callable[[BaseException], HostError]) -> None:
        self._channel = channel
        self._lost = lost

    def send(self, content: bytes) -> None:
        """Send all of it."""
        try:
            self._channel.sendall(content)
        except (paramiko.SSHException, EOFError, OSError) as err:
            raise self._lost(err) from err

    def receive(self, most_bytes: int) -> bytes:
        """What has come; b"" only when the other end said that it has no more, which a broken connection does not."""
        try:
            if (chunk := self._channel.recv(most_bytes)) or self._channel.eof_received:
                return bytes(chunk)
        except (paramiko.SSHException, EOFError, OSError) as err:
            raise self._lost(err) from err
        raise self._lost(EOFError())


class Exchange:
    """One command on one channel: its input and its errors are moved by threads beside the caller's."""

    def __init__(self, channel: paramiko.Channel, stdin: Iterator[bytes], output: Output, deadline: float) -> None:
        self._channel = channel
        self._stdin = stdin
        self._output = output
        self._deadline = deadline
        self._late = False

    def run(self, line: str) -> int:
        """The exit status.

        Raises:
            TimeoutError: The deadline passed.
            EOFError: The connection ended before the command did.
        """
        channel = self._channel
        channel.settimeout(_LOOK_S)
        errors = threading.Thread(target=self._errors, name="ssh-stderr", daemon=True)
        errors.start()  # it keeps the deadline, too: the library waits for ever for the answer to `exec`
        try:
            with _answered(channel, lambda: self._late):
                channel.exec_command(line)
            threading.Thread(target=self._feed, name="ssh-stdin", daemon=True).start()
            self._read(channel.recv, self._output.out)
            channel.status_event.wait(max(0.0, self._deadline - time.monotonic()))
            errors.join(QUIET_S + 2 * _LOOK_S)
        finally:
            channel.close()
            errors.join(QUIET_S)
        if self._late:
            raise TimeoutError("no end in time")
        if channel.exit_status < 0:
            raise EOFError("it was closed before the command ended")
        return int(channel.exit_status)

    def _read(self, receive: Any, take: Any) -> None:
        """To the end of a stream, or until the command has ended and it is quiet. See `process.QUIET_S`."""
        heard = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= self._deadline:
                self._late = True
                self._channel.close()
                return
            ended = self._channel.status_event.is_set()  # what it said before that is here by now, and read next
            try:
                chunk = receive(READ_BYTES)
            except TimeoutError:
                if ended and now - heard >= QUIET_S:
                    return
                continue
            if not chunk:
                return
            heard = now
            take(chunk)

    def _errors(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # the other thread sees the same, and raises it
            self._read(self._channel.recv_stderr, self._output.err)

    def _feed(self) -> None:
        with contextlib.suppress(OSError, EOFError):  # it reads no more, which is its own affair
            for piece in self._stdin:
                rest = piece
                while rest and not self._channel.closed:
                    with contextlib.suppress(TimeoutError):
                        rest = rest[self._channel.send(rest) :]
            self._channel.shutdown_write()
