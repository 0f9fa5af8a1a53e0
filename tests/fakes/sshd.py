"""An SSH server in this process: the protocol is real, the commands run here, connections can be cut at will."""

import contextlib
import os
import socket
import subprocess
import threading

import paramiko


class FakeSshd:
    """Listens on loopback while the context lasts.

    Args:
        key: Its host key; None for a new one.
        accepts: Public keys that may log in, as bytes; None lets everybody in.
        forwards: Channels to other addresses are allowed.

    Attributes:
        subsystems: Name -> the program that serves it.
        refuses: Commands are not run.
        silent: Requests for a subsystem are not answered.
        sessions: How many commands a connection takes at once: sshd's own limit, unless a test sets another.
    """

    def __init__(self, key=None, accepts=None, *, forwards=True):
        self.keys = [key or paramiko.ECDSAKey.generate()]
        self.accepts = accepts
        self.forwards = forwards
        self.sessions = 10
        self.subsystems = {}
        self.refuses = False
        self.silent = threading.Event()
        self.transports = []
        self.offered = []
        self.commands = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]

    @property
    def known(self):
        return "".join(f"[127.0.0.1]:{self.port} {k.get_name()} {k.get_base64()}\n" for k in self.keys)

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *raised):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self):
        """All connections that there are end now; later ones do not."""
        for transport in tuple(self.transports):
            transport.close()
            transport.join(5)

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._greet, args=(connection,), daemon=True).start()

    def _greet(self, connection):
        transport = paramiko.Transport(connection)
        for key in self.keys:
            transport.add_server_key(key)
        self.transports.append(transport)
        with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
            transport.start_server(event=threading.Event(), server=_Session(self, transport))


class _Session(paramiko.ServerInterface):
    def __init__(self, server, transport):
        self._server = server
        self._transport = transport

    def get_allowed_auths(self, username):
        return "publickey"

    def check_auth_publickey(self, username, key):
        self._server.offered.append(key.asbytes())
        known = self._server.accepts
        return paramiko.AUTH_SUCCESSFUL if known is None or key.asbytes() in known else paramiko.AUTH_FAILED

    def check_channel_request(self, kind, chanid):
        if kind != "session":
            return paramiko.OPEN_FAILED_UNKNOWN_CHANNEL_TYPE
        # As sshd: one counts until its command has ended and both sides have closed it.
        if sum(not channel.closed for channel in self._transport._channels.values()) >= self._server.sessions:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        return paramiko.OPEN_SUCCEEDED

    def check_channel_direct_tcpip_request(self, chanid, origin, destination):
        if not self._server.forwards:
            return paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
        try:
            far = socket.create_connection(destination, timeout=5)
        except OSError:
            return paramiko.OPEN_FAILED_CONNECT_FAILED
        threading.Thread(target=self._forward, args=(chanid, far), daemon=True).start()
        return paramiko.OPEN_SUCCEEDED

    def _forward(self, chanid, far):
        channel = next(c for c in iter(lambda: self._transport.accept(5), None) if c.get_id() == chanid)
        ways = ((channel.recv, far.sendall), (far.recv, channel.sendall))
        for receive, send in ways:
            threading.Thread(target=self._pipe, args=(receive, send, channel, far), daemon=True).start()

    def _pipe(self, receive, send, channel, far):
        with contextlib.suppress(Exception):  # the library raises anything when a connection is cut
            far.settimeout(None)
            while chunk := receive(65536):
                send(chunk)
        with contextlib.suppress(Exception):
            channel.close()
            far.shutdown(socket.SHUT_RDWR)
        far.close()

    def check_channel_subsystem_request(self, channel, name):
        if self._server.silent.is_set():
            threading.Event().wait(5)
        if (program := self._server.subsystems.get(name)) is None:
            return False
        threading.Thread(target=_execute, args=(channel, program), daemon=True).start()
        return True

    def check_channel_exec_request(self, channel, command):
        if self._server.refuses:
            return False
        self._server.commands.append(command.decode())
        threading.Thread(target=_execute, args=(channel, command), daemon=True).start()
        return True


def _execute(channel, command):
    with subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        threads = [
            threading.Thread(target=_carry, args=(lambda: os.read(process.stdout.fileno(), 65536), channel.sendall)),
            threading.Thread(
                target=_carry, args=(lambda: os.read(process.stderr.fileno(), 65536), channel.sendall_stderr)
            ),
        ]
        feeder = threading.Thread(target=_feed, args=(channel, process), daemon=True)
        for thread in [*threads, feeder]:
            thread.daemon = True
            thread.start()
        rc = process.wait()
        with contextlib.suppress(OSError, EOFError):
            channel.send_exit_status(rc)
        for thread in threads:
            thread.join()
        with contextlib.suppress(OSError, EOFError):  # the connection was cut meanwhile
            channel.close()


def _carry(receive, send):
    with contextlib.suppress(OSError, EOFError, ValueError):
        while chunk := receive():
            send(chunk)


def _feed(channel, process):
    with contextlib.suppress(OSError, EOFError, ValueError):
        while chunk := channel.recv(65536):
            process.stdin.write(chunk)
    with contextlib.suppress(OSError):
        process.stdin.close()
