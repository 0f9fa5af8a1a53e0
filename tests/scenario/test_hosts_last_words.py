"""What a command says in the moment in which it ends is not lost, however long it was silent before."""

import os
import threading
import time
from types import SimpleNamespace

from orchestrator.hosts import exchange, process
from orchestrator.hosts.output import Output

FAR_S = 30.0


class Channel:
    """It is silent at the first look, and has spoken and ended by the time of the next one."""

    def __init__(self):
        self.status_event = threading.Event()
        self.exit_status = 0
        self.closed = False
        self._said = [TimeoutError, b"last words", b""]

    def recv(self, _):
        said = self._said.pop(0) if self._said else b""
        if said is TimeoutError:
            self.status_event.set()
            raise TimeoutError
        return said

    def recv_stderr(self, _):
        return b""

    def settimeout(self, _): ...

    def exec_command(self, _): ...

    def send(self, data):
        return len(data)

    def shutdown_write(self): ...

    def close(self):
        self.closed = True


def test_over_ssh(monkeypatch):
    monkeypatch.setattr(exchange, "QUIET_S", 0.0)

    with Output() as output:
        rc = exchange.Exchange(Channel(), iter(()), output, time.monotonic() + FAR_S).run("true")
        assert (rc, output.stdout) == (0, b"last words")


def test_of_a_process_here(monkeypatch):
    monkeypatch.setattr(process, "QUIET_S", 0.0)
    (out, out_end), (err, err_end), (in_end, stdin) = os.pipe(), os.pipe(), os.pipe()
    ended = []

    def poll():
        if not ended:
            ended.append(os.write(out_end, b"last words"))
        return 0

    streams = {"stdout": os.fdopen(out, "rb", 0), "stderr": os.fdopen(err, "rb", 0), "stdin": os.fdopen(stdin, "wb", 0)}
    fake = SimpleNamespace(**streams, poll=poll, wait=lambda _: 0)
    with Output() as output:
        process._Pump(fake, iter(()), output, time.monotonic() + FAR_S).run()
        assert output.stdout == b"last words"
    for descriptor in (out_end, err_end, in_end):
        os.close(descriptor)
    for stream in streams.values():
        stream.close()
