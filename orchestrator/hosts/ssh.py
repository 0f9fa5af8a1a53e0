"""Hosts over SSH: connections by paramiko over any number of jumps, each host's key checked before anything else."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import paramiko

from orchestrator.errors import HostAuthFailed, HostError, HostLacks, HostUnreachable
from orchestrator.hosts import commands, exchange, known
from orchestrator.hosts.exchange import ChannelStream, Exchange
from orchestrator.hosts.known import HostKey
from orchestrator.hosts.process import lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from orchestrator.engine.host import Stream, T
    from orchestrator.hosts.config import Hop, Route
    from orchestrator.hosts.keyring import Keyring
    from orchestrator.hosts.output import Output

BANNER_S = 15.0
AUTH_S = 20.0
CHANNEL_S = 15.0
KEEPALIVE_S = 10
#: Bytes that nobody acknowledges for so long end the connection. Source: tcp(7), TCP_USER_TIMEOUT.
UNHEARD_S = 30.0
#: For ProxyCommand to end by itself once its connection is closed.
COMMAND_ENDS_S = 1.0
_LOOK_S = 0.25

#: Nothing that OpenSSH has dropped, and first what takes one pass over the data.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")
_ED25519, _RSA = "ssh-ed25519", "ssh-rsa"
#: Kind of key in known_hosts -> algorithms that prove it. Source: RFC 8332: RSA keys sign with SHA-2.
_ALGORITHMS = {
    _ED25519: (_ED25519,),
    "ecdsa-sha2-nistp256": ("ecdsa-sha2-nistp256",),
    "ecdsa-sha2-nistp384": ("ecdsa-sha2-nistp384",),
    "ecdsa-sha2-nistp521": ("ecdsa-sha2-nistp521",),
    _RSA: ("rsa-sha2-512", "rsa-sha2-256"),
}

# The library reports what it raises on its logger, too, with tracebacks on stderr where nobody listens.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False


class Switchboard:
    """Makes connections. Jumps are connected once and shared by all hosts behind them. Safe in threads.

    Args:
        keyring: What hosts are offered.
        trusting: Options of `hosts trust`, for whoever is told to vouch for a key.
    """

    def __init__(self, keyring: Keyring, trusting: str = "") -> None:
        self._keyring = keyring
        self._trusting = trusting
        self._jumps: dict[Route, paramiko.Transport] = {}
        self._locks: dict[Route, threading.Lock] = {}
        self._mutex = threading.Lock()

    def connect(self, route: Route) -> paramiko.Transport:
        """A connection to the end of `route`, logged in.

        Raises:
            HostUnreachable: There is none to be had now.
            HostKeyUnknown, HostKeyChanged: Of a host on the way.
            HostAuthFailed: A host on the way takes none of our keys.
        """
        hop = route[-1]
        entries = known.load(hop.known_files)
        transport = self._greeted(route, known.kinds(entries, hop.key_name))
        try:
            known.demand_known(entries, hop.alias, hop.key_name, _host_key(transport), self._trusting)
            _log_in(transport, hop, self._keyring)
        except BaseException:
            transport.close()
            raise
        transport.set_keepalive(KEEPALIVE_S)
        return transport

    def keys(self, route: Route) -> tuple[HostKey, ...]:
        """Every key that the end of `route` shows, one connection a kind; nothing is sent to it."""
        found = {}
        for kind in _ALGORITHMS:
            try:
                transport = self._greeted(route, (kind,), only=True)
            except paramiko.ssh_exception.IncompatiblePeer:
                continue
            key = _host_key(transport)
            transport.close()
            found[key.kind] = key
        return tuple(found.values())

    def close(self) -> None:
        """End the connections to jumps."""
        with self._mutex:
            for transport in self._jumps.values():
                transport.close()
            self._jumps.clear()

    def _greeted(self, route: Route, kinds: Sequence[str], *, only: bool = False) -> paramiko.Transport:
        """A connection whose host has shown and proven a key; nobody is logged in, the key is not checked."""
        hop = route[-1]
        sock = self._socket(route)
        transport = _Transport(sock, default_window_size=1 << 22)
        transport.banner_timeout = transport.handshake_timeout = BANNER_S
        transport.auth_timeout = AUTH_S
        options = transport.get_security_options()
        options.ciphers, options.digests = _CIPHERS, _MACS
        options.key_types = _key_types(kinds, only=only)
        over = threading.Event()
        try:
            transport.start_client(event=over)
            if not over.wait(BANNER_S * 2) or not transport.is_active():
                raise transport.get_exception() or paramiko.SSHException("no answer to our greeting")
        except paramiko.ssh_exception.IncompatiblePeer as err:
            transport.close()
            if only:
                raise
            raise HostError(
                f"{hop.alias} ({hop}): no way of encryption in common: {err}", remedy="give it a newer SSH server"
            ) from err
        except (paramiko.SSHException, EOFError, OSError) as err:
            said = f"{hop.proxy_command}: {sock.said()}: " if isinstance(sock, _CommandSocket) else ""
            transport.close()
            raise _unreachable(hop, err, said) from err
        return transport

    def _socket(self, route: Route) -> Any:
        hop, way = route[-1], route[:-1]
        if way:
            return self._through(self._jump(way), way[-1], hop)
        if hop.proxy_command:
            return _CommandSocket(hop.proxy_command)
        try:
            sock = socket.create_connection((hop.address, hop.port), timeout=hop.connect_s)
        except OSError as err:
            raise _unreachable(hop, err) from err
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNHEARD_S * 1000))
        return sock

    def _jump(self, way: Route) -> paramiko.Transport:
        with self._mutex:
            lock = self._locks.setdefault(way, threading.Lock())
        with lock:
            transport = self._jumps.get(way)
            if transport is None or not transport.is_active():
                transport = self.connect(way)
                with self._mutex:
                    self._jumps[way] = transport
            return transport

    def _through(self, transport: paramiko.Transport, jump: Hop, hop: Hop) -> Any:
        target = (hop.address, hop.port)
        try:
            return transport.open_channel("direct-tcpip", target, ("127.0.0.1", 0), timeout=hop.connect_s)
        except paramiko.ChannelException as err:
            if err.code == paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED:
                raise HostError(
                    f"{jump.alias} ({jump}) forbids to go on to {hop.address}:{hop.port}",
                    remedy=f"allow it there: AllowTcpForwarding yes, and PermitOpen where it is set, in {jump.alias}'s"
                    " sshd_config",
                ) from err
            raise _unreachable(hop, err, f"from {jump.alias}: ") from err
        except (paramiko.SSHException, EOFError, OSError) as err:
            raise _unreachable(hop, err, f"from {jump.alias}: ") from err


class SshTransport:
    """Runs commands over one connection, made when it is first needed and again after it broke.

    Args:
        route: The way there.
        board: Makes connections.
    """

    def __init__(self, route: Route, board: Switchboard) -> None:
        self._route = route
        self._board = board
        self._transport: paramiko.Transport | None = None
        self._open = 0
        self._runs_commands = False
        self._mutex = threading.Condition()

    @property
    def user(self) -> str:
        """Who logs in."""
        return self._route[-1].user

    @property
    def connected(self) -> bool:
        """There is a connection, as far as is known."""
        return self._transport is not None and self._transport.is_active()

    def close(self) -> None:
        """End the connection."""
        with self._mutex:
            if self._transport is not None:
                self._transport.close()
            self._transport = None

    def execute(
        self, argv: Sequence[str], *, stdin: Iterator[bytes], output: Output, deadline_s: float, repeatable: bool
    ) -> int:
        """Run `argv` to its end; its exit status."""
        hop = self._route[-1]
        deadline = time.monotonic() + deadline_s
        channel = self._channel(deadline)
        try:
            rc = Exchange(channel, stdin, output, deadline).run(commands.line(argv))
        except exchange.RequestRefused as err:
            if self._runs_commands:  # it did before: it is short of processes, which passes
                raise lost(hop.alias, _words(err), repeatable=True) from err
            raise self._lacks("ForceCommand", "runs no commands") from err
        except (paramiko.SSHException, EOFError, OSError) as err:
            if isinstance(err, TimeoutError):
                self.close()  # a host that stays silent on one channel is not asked on another
            raise lost(hop.alias, _words(err), repeatable=repeatable) from err
        else:
            self._runs_commands = True
            return rc
        finally:
            self._done()

    def converse(self, service: str, talk: Callable[[Stream], T], *, silence_s: float) -> T:
        """What one conversation with a subsystem comes to."""
        channel = self._channel(time.monotonic() + silence_s)
        try:
            channel.settimeout(silence_s)
            try:
                exchange.subsystem(channel, service, silence_s)
            except exchange.RequestRefused as err:
                raise self._lacks(f"`Subsystem {service} internal-{service}`", f"offers no {service}") from err
            except (paramiko.SSHException, EOFError, OSError) as err:
                raise self._lost(err) from err
            return talk(ChannelStream(channel, self._lost))
        finally:
            exchange.end(channel)
            self._done()

    def _lacks(self, setting: str, what: str) -> HostLacks:
        alias = self._route[-1].alias
        return HostLacks(
            f"{alias}: its SSH server {what}", remedy=f"see {setting} in {alias}'s sshd_config, or use another host"
        )

    def _lost(self, err: BaseException) -> HostError:
        if isinstance(err, TimeoutError):
            self.close()  # as for commands
        return lost(self._route[-1].alias, _words(err), repeatable=True)

    def _done(self) -> None:
        with self._mutex:
            self._open -= 1
            self._mutex.notify()

    def _channel(self, deadline: float) -> paramiko.Channel:
        """A channel for one command, when the host has one to spare.

        Source: sshd_config(5), MaxSessions: 10 to a connection, unless somebody made it fewer. One more is refused,
        and the connection, which other commands are on, is as well as before. One that was just closed may still
        count.
        """
        alone_until = time.monotonic() + CHANNEL_S
        with self._mutex:
            while True:
                try:
                    channel = self._opened()
                except paramiko.ChannelException as err:
                    now = time.monotonic()
                    if now >= (deadline if self._open else min(deadline, alone_until)):
                        raise _unreachable(self._route[-1], err, "it allows no further session: ") from err
                    self._mutex.wait(_LOOK_S)
                    continue
                self._open += 1
                return channel

    def _opened(self) -> paramiko.Channel:
        """A channel. A connection that turns out to be broken is made anew: nothing was started.

        Raises:
            paramiko.ChannelException: The host refuses it.
        """
        if self._transport is not None and self._transport.is_active():
            try:
                return self._transport.open_session(timeout=CHANNEL_S)
            except paramiko.ChannelException:
                raise
            except (paramiko.SSHException, EOFError, OSError):
                self._transport.close()
        self._transport = self._board.connect(self._route)
        try:
            return self._transport.open_session(timeout=CHANNEL_S)
        except paramiko.ChannelException:
            raise
        except (paramiko.SSHException, EOFError, OSError) as err:
            raise _unreachable(self._route[-1], err) from err


def _host_key(transport: paramiko.Transport) -> HostKey:
    key = transport.get_remote_server_key()
    return HostKey(key.get_name(), key.asbytes())


def _key_types(kinds: Sequence[str], *, only: bool) -> tuple[str, ...]:
    """Algorithms for host keys: those of the known kinds first. Source: sshconnect2.c, `order_hostkeyalgs`."""
    first = [a for kind in kinds for a in _ALGORITHMS.get(kind, ())]
    rest = [] if only else [a for algorithms in _ALGORITHMS.values() for a in algorithms]
    return tuple(dict.fromkeys([*first, *rest]))


def _log_in(transport: paramiko.Transport, hop: Hop, keyring: Keyring) -> None:
    refused: list[str] = []
    why = ""
    with contextlib.closing(keyring.offers(hop)) as offers:
        for words, key in offers:
            try:
                transport.auth_publickey(hop.user, key)
            except paramiko.BadAuthenticationType as err:
                why = f"it takes no keys, but {', '.join(err.allowed_types)}"
                break
            except (paramiko.SSHException, EOFError, OSError) as err:
                why = str(err)
                refused.append(words)
            if transport.is_authenticated():
                return
            if not transport.is_active() or "timeout" in why.lower():
                break
    if not transport.is_active() and len(refused) <= 1:
        raise HostUnreachable(
            f"{hop.alias} ({hop}) hung up during the login: {why}",
            remedy=f"too many connections at once? See MaxStartups and the log of sshd on {hop.alias}",
        )
    tried = f"tried {', '.join(refused)}" if refused else "there is none to try"
    raise HostAuthFailed(
        f"{hop.alias}: {hop.user} cannot log in at {hop.address}: the host takes none of our keys ({tried})"
        + (f"; {why}" if why and "failed" not in why.lower() else ""),
        remedy=f"ssh -v {hop}   # then User and IdentityFile for {hop.alias} in ~/.ssh/config; `ssh-add -l`",
    )


def _unreachable(hop: Hop, err: BaseException, where: str = "") -> HostUnreachable:
    return HostUnreachable(
        f"{hop.alias} ({hop}) cannot be reached: {where}{_words(err)}",
        remedy=f"is it up, and sshd on it? is the address right? `ssh -v {hop}` shows more",
    )


def _words(err: BaseException) -> str:
    if isinstance(err, TimeoutError):
        return str(err) or "no answer in time"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    return " ".join(str(err).split())[:256] or "the connection was closed"


class _Transport(paramiko.Transport):  # type: ignore[misc]
    """The library's, which dies quietly of anything.

    Source: paramiko 5.1 `Transport.run` takes two arguments out of each OSError. A jump that breaks raises one with a
    single argument: the thread then ends with a traceback, and the connection looks alive for ever.
    """

    def run(self) -> None:
        try:
            super().run()
        except Exception as err:  # noqa: BLE001  whoever uses the connection sees it closed
            self.saved_exception = err
            self.close()
            if self.completion_event is not None:
                self.completion_event.set()


class _CommandSocket(socket.socket):
    """A socket whose other end is ProxyCommand, which ends with it.

    Source: ssh_config(5), ProxyCommand: run by a shell with `exec`; its input and output are the connection.
    """

    def __init__(self, command: str) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(fileno=ours.detach())
        self._words = ""
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  closed with the socket
        with theirs:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._said,
                start_new_session=True,
            )

    def said(self) -> str:
        """The end of what it complained of."""
        if not self._said.closed:
            self._said.seek(0)
            self._words = self._said.read().decode(errors="replace").strip()[-256:]
        return self._words

    def close(self) -> None:
        super().close()
        self.said()
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(COMMAND_ENDS_S)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._said.close()
