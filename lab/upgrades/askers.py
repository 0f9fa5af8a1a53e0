"""Clients that ask all the time: the application through its service, the API, the members of etcd."""

from __future__ import annotations

import shlex
import threading
import time
import uuid
from bisect import bisect_right
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from lab.errors import LabError
from lab.processes import attempt, wait_for
from lab.ssh import command
from lab.upgrades import application, asking
from lab.upgrades.answers import Answer, Answers, parse

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from lab.upgrades.access import Access, Api
    from lab.upgrades.application import Application

_ROOT = "/var/tmp/lab-asking"  # noqa: S108 - on a node, whose root only we are
_UNIT = """[Unit]
Description=asks for the lab
[Service]
ExecStart=/usr/bin/python3 {directory}/asking.py {words}
Restart=always
[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for: at an address as seen from the node, answered with `body`; `-` for any."""

    name: str
    host: str
    port: int
    path: str
    body: str = "-"


class NodeAsker:
    """Asks from a node's own network, in a unit of systemd that goes on without us and comes back after a reboot."""

    def __init__(
        self, access: Access, node: str, targets: Sequence[Target], *, every_s: float, timeout_s: float
    ) -> None:
        self._access = access
        self._node = node
        self._unit = f"lab-asking-{uuid.uuid4().hex[:12]}"
        self._directory = f"{_ROOT}/{self._unit}"
        words = [f"{self._directory}/log", str(every_s), str(timeout_s)]
        for target in targets:
            words += [target.name, target.host, str(target.port), target.path, target.body]
        self._words = words
        self._names = [target.name for target in targets]

    def start(self) -> None:
        """Return once it has asked for everything."""
        unit = _UNIT.format(directory=self._directory, words=shlex.join(self._words))
        program = Path(asking.__file__).read_text()
        self._access.ssh(
            self._node,
            f"mkdir -p {self._directory}\n"
            f"cat > {self._directory}/asking.py <<'PROGRAM'\n{program}PROGRAM\n"
            f"cat > /etc/systemd/system/{self._unit}.service <<'UNIT'\n{unit}UNIT\n"
            f"systemctl daemon-reload\nsystemctl enable -q --now {self._unit}\n",
        )
        wait_for(
            f"answers on {self._node}",
            lambda: set(self._names) <= set(self.so_far()),
            timeout_s=30,
            remedy=f"python -m lab ssh {self._node} -- journalctl -u {self._unit}",
        )

    def so_far(self) -> Mapping[str, Answers]:
        """Name of the target -> its answers until now."""
        argv = command(self._access.cluster, self._node, ("cat", f"{self._directory}/log"))
        return parse(attempt(argv, timeout_s=60).stdout)

    def stop(self) -> Mapping[str, Answers]:
        """Name of the target -> all of its answers; nothing is left on the node.

        Raises:
            LabError: It had ended before, and who knows what was not asked.
        """
        active = self._access.ssh(self._node, f"systemctl is-active {self._unit} || true\n").strip()
        self._access.ssh(self._node, f"systemctl disable -q --now {self._unit}\n")
        found = self.so_far()
        self._access.ssh(
            self._node,
            f"rm -rf {self._directory} /etc/systemd/system/{self._unit}.service\nsystemctl daemon-reload\n",
        )
        if active != "active" or set(found) != set(self._names):
            raise LabError(f"who asked on {self._node} was {active}", remedy="start it again, after what ended it")
        return found


class ServiceClient:
    """Asks an application through its service, from a node. A context manager that stops what was not stopped.

    Args:
        access: To the cluster.
        app: Whom it asks.
        node: From whose network; the first control plane by default.
        every_s: Between two requests; earlier ones need not have been answered.
        timeout_s: A request that takes longer has failed.
    """

    def __init__(
        self, access: Access, app: Application, *, node: str = "", every_s: float = 0.1, timeout_s: float = 1.0
    ) -> None:
        target = Target("service", app.address, application.PORT, "/", application.CONTENT)
        where = node or access.control_planes()[0].name
        self._asker = NodeAsker(access, where, [target], every_s=every_s, timeout_s=timeout_s)
        self._found: Answers | None = None

    def __enter__(self) -> Self:
        self._asker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def so_far(self) -> Answers:
        """What it was answered until now."""
        return self._asker.so_far()["service"]

    def stop(self) -> Answers:
        """All that it was answered; it asks no more."""
        if self._found is None:
            self._found = self._asker.stop()["service"]
        return self._found


class ApiClient:
    """Lists the nodes again and again through one URL, as an administrator. A context manager.

    Args:
        access: To the cluster.
        server: URL; by default that of the kubeconfig: the load balancer, where there is one.
        every_s: Between two requests; earlier ones need not have been answered.
        timeout_s: A request that takes longer has failed.
    """

    def __init__(self, access: Access, server: str = "", *, every_s: float = 0.2, timeout_s: float = 5.0) -> None:
        self._api = access.api(server)
        self._timeout_s = timeout_s
        self._answers: list[Answer] = []
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=asking.keep_asking, args=(self._ask, self._note, self._over), kwargs={"every_s": every_s},
            daemon=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def so_far(self) -> Answers:
        """What it was answered until now."""
        return Answers.of(tuple(self._answers))

    def stop(self) -> Answers:
        """All that it was answered; it asks no more."""
        self._over.set()
        self._thread.join()
        return self.so_far()

    def _ask(self) -> str:
        return asking.verdict(lambda: _nodes(self._api, self._timeout_s), _some_nodes)

    def _note(self, asked_at: float, took_s: float, said: str) -> None:
        self._answers.append(Answer(asked_at, took_s, said))


def _nodes(api: Api, timeout_s: float) -> tuple[int, bytes]:
    def wrap(plain: socket.socket) -> ssl.SSLSocket:
        return api.tls.wrap_socket(plain, server_hostname=api.host)

    return asking.fetch(api.host, api.port, "/api/v1/nodes", timeout_s=timeout_s, wrap=wrap)


def _some_nodes(body: bytes) -> bool:
    return b'"NodeList"' in body and b'"uid"' in body


@dataclass(frozen=True, slots=True)
class EtcdHealth:
    """What was seen of the members of etcd.

    Attributes:
        members: How many there are.
        lowest: The fewest that were alive at once.
        without_quorum: Times in which fewer were alive than make a quorum: from and to, in seconds since 1970.
        longest_unable_s: The longest time in which no member could read what is certainly the latest, as it is while
            a leader is elected.
    """

    members: int
    lowest: int
    without_quorum: tuple[tuple[float, float], ...]
    longest_unable_s: float


class EtcdWatch:
    """Asks each member of etcd for its health, on its own node. A context manager.

    Source: etcd 3.6: `/livez` reads without asking other members, `/readyz` does a linearizable read; kubeadm has
    etcd answer both on 127.0.0.1:2381, without TLS.
    """

    EVERY_S = 0.5
    #: A member that answered this long ago, and not since, is counted as gone.
    STALE_S = 1.6

    def __init__(self, access: Access) -> None:
        targets = [Target(name, "127.0.0.1", 2381, f"/{name}") for name in ("livez", "readyz")]
        nodes = [node.name for node in access.control_planes()]
        self._askers = [NodeAsker(access, node, targets, every_s=self.EVERY_S, timeout_s=1.0) for node in nodes]
        self._found: EtcdHealth | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for asker in self._askers:
                asker.start()
                stack.callback(asker.stop)
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def so_far(self) -> EtcdHealth:
        """What was seen until a moment ago."""
        until = time.time() - self.STALE_S
        return self._judged([asker.so_far() for asker in self._askers], until)

    def stop(self) -> EtcdHealth:
        """What was seen; it asks no more."""
        if self._found is None:
            until = time.time() - self.STALE_S
            self._found = self._judged([asker.stop() for asker in self._askers], until)
        return self._found

    def _judged(self, found: Sequence[Mapping[str, Answers]], until: float) -> EtcdHealth:
        return health([each["livez"] for each in found], [each["readyz"] for each in found], until=until)


def health(alive: Sequence[Answers], able: Sequence[Answers], *, until: float) -> EtcdHealth:
    """What answers of all members come to, from when all had been asked until then."""
    members = len(alive)
    moment = max(answers.each[0].asked_at for answers in (*alive, *able)) + EtcdWatch.EVERY_S
    alive_at, able_at = ([_Lookup(answers) for answers in each] for each in (alive, able))
    lowest, lost, unable = members, _Times(), _Times()
    while moment < until:
        living = sum(one.right_at(moment) for one in alive_at)
        lowest = min(lowest, living)
        lost.note(moment, so=living <= members // 2)
        unable.note(moment, so=not any(one.right_at(moment) for one in able_at))
        moment += EtcdWatch.EVERY_S
    longest_s = max((end - start for start, end in unable.each), default=0.0)
    return EtcdHealth(members, lowest, tuple(lost.each), longest_s)


class _Times:
    """From when to when something was so, looked at again and again."""

    def __init__(self) -> None:
        self.each: list[tuple[float, float]] = []
        self._was = False

    def note(self, moment: float, *, so: bool) -> None:
        if so:
            start = self.each.pop()[0] if self._was else moment
            self.each.append((start, moment + EtcdWatch.EVERY_S))
        self._was = so


class _Lookup:
    """The latest answer at a moment."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers.each
        self._times = [one.asked_at for one in answers.each]

    def right_at(self, moment: float) -> bool:
        place = bisect_right(self._times, moment)
        if not place:
            return False
        latest = self._answers[place - 1]
        return latest.right and moment - latest.asked_at <= EtcdWatch.STALE_S
