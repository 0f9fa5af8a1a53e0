"""One control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, and kwok for the kubelets."""

from __future__ import annotations

import json
import random
import secrets
import socket
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import urllib3
import yaml

from lab import gobuild, versions
from lab.api import keys, stages
from lab.errors import LabError
from lab.processes import TIED_TO_US, Daemon, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

ADDRESS = "127.0.0.1"
SERVICES = "198.19.128.0/20"
PODS = "198.19.0.0/17"
READY_S = 60
#: Below the range that the kernel takes the ports of outgoing connections from, which would be in the way.
_PORTS = range(20000, 32000, 10)

#: Who talks to the API server, each with a token of its own, so that the audit log tells them apart.
ADMINS = ("operator", "load", "controllers", "scheduler", "kwok", "other")
#: Whose requests are in the audit log.
AUDITED = ("operator",)


@dataclass(frozen=True, slots=True)
class Ports:
    """Where they listen."""

    api: int
    etcd: int
    etcd_peer: int
    controllers: int
    scheduler: int

    @classmethod
    def free(cls) -> Ports:
        """Five that nobody listens on."""
        for base in random.sample(_PORTS, len(_PORTS)):
            chosen = range(base, base + 5)
            if all(_is_free(port) for port in chosen):
                return cls(*chosen)
        raise LabError("no port is free on loopback", remedy="stop what listens there: `ss -ltnp`")


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that runs, or ran.

    Attributes:
        directory: Everything of it: data, keys, logs.
        ports: Where it listens.
        version: Of Kubernetes.
        tied: It ends with the process that started it.
    """

    directory: Path
    ports: Ports
    version: str
    tied: bool

    @property
    def server(self) -> str:
        """Its URL."""
        return f"https://{ADDRESS}:{self.ports.api}"

    @property
    def binaries(self) -> Path:
        """Of Kubernetes, kubectl among them."""
        return gobuild.kubernetes(self.version)

    @property
    def kubectl(self) -> Path:
        """A kubectl of its version."""
        return self.binaries / "kubectl"

    @property
    def kubeconfig(self) -> Path:
        """For the user `operator`, who may do everything."""
        return self.kubeconfig_of("operator")

    def kubeconfig_of(self, user: str) -> Path:
        """For one of ADMINS, or for a user that was added."""
        return self.directory / f"{user}.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON line for each request of AUDITED users that was answered."""
        return self.directory / "audit.log"

    @property
    def certificate_authority(self) -> Path:
        """The certificate that signs the server's."""
        return self.directory / "ca.crt"

    @property
    def clients(self) -> keys.Authority:
        """Signs certificates of users."""
        return keys.Authority(self.directory / "clients")

    @property
    def daemons(self) -> tuple[Daemon, ...]:
        """In the order in which they start."""
        names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok")
        return tuple(Daemon(name, self.directory / f"{name}.pid", self.directory / f"{name}.log") for name in names)

    def daemon(self, name: str) -> Daemon:
        """One of them."""
        return next(each for each in self.daemons if each.name == name)

    def token(self, user: str) -> str:
        """The token of one of ADMINS."""
        return (self.directory / f"{user}.token").read_text()

    def start(self, *names: str) -> None:
        """Start the daemons that do not run, or those of them that are named, and wait until they answer."""
        chosen = [each for each in self.daemons if each.name in names or not names]
        for daemon in chosen:
            argv = self._argv(daemon.name)
            if daemon.name == "kube-apiserver" and daemon.pid() is None:
                # One that was killed is gone before the last of its threads, which keeps the port a moment longer.
                wait_for(
                    f"port {self.ports.api} to be free", lambda: _is_free(self.ports.api, again=True),
                    timeout_s=READY_S, pause_s=0.05,
                    remedy=f"see who listens there: ss -ltnp 'sport = :{self.ports.api}'",
                )  # fmt: skip
            daemon.start([*TIED_TO_US, *argv] if self.tied else argv)
        for daemon in chosen:
            self._wait(daemon)

    def stop(self, *names: str) -> None:
        """End the daemons that run, or those of them that are named, those first that need the others."""
        for daemon in reversed(self.daemons):
            if daemon.name in names or not names:
                daemon.stop()

    def _wait(self, daemon: Daemon) -> None:
        urls = {
            "etcd": f"http://{ADDRESS}:{self.ports.etcd}/health",
            "kube-apiserver": f"{self.server}/readyz",
            "kube-controller-manager": f"https://{ADDRESS}:{self.ports.controllers}/healthz",
            "kube-scheduler": f"https://{ADDRESS}:{self.ports.scheduler}/healthz",
        }
        if daemon.name not in urls:
            return  # kwok is there when its nodes are Ready

        def answers() -> bool:
            if daemon.pid() is None:
                raise LabError(f"{daemon.name} ended:\n{daemon.last_words()}", remedy=f"see {daemon.log}")
            return self._answers(urls[daemon.name])

        wait_for(
            f"{daemon.name} to answer", answers, timeout_s=READY_S, pause_s=0.05,
            remedy=f"see {daemon.log}",
        )  # fmt: skip

    def _answers(self, url: str) -> bool:
        headers = {"Authorization": f"Bearer {self.token('load')}"}
        with urllib3.PoolManager(ca_certs=str(self.certificate_authority), retries=False, timeout=2.0) as pool:
            try:
                return pool.request("GET", url, headers=headers).status == 200
            except urllib3.exceptions.HTTPError:
                return False

    def _argv(self, name: str) -> Sequence[str]:
        programs = {
            "etcd": self._etcd,
            "kube-apiserver": self._api_server,
            "kube-controller-manager": self._controllers,
            "kube-scheduler": self._scheduler,
            "kwok": self._kwok,
        }
        return programs[name]()

    def _etcd(self) -> list[str]:
        client = f"http://{ADDRESS}:{self.ports.etcd}"
        peer = f"http://{ADDRESS}:{self.ports.etcd_peer}"
        flags = {
            "name": "lab",
            "data-dir": self.directory / "etcd",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"lab={peer}",
            "unsafe-no-fsync": "true",
            "quota-backend-bytes": 8 * 2**30,
            "snapshot-count": 10000,
        }
        return [str(gobuild.etcd(versions.KUBERNETES[self.version].etcd) / "etcd"), *_flags(flags)]

    def _api_server(self) -> list[str]:
        flags = {
            "etcd-servers": f"http://{ADDRESS}:{self.ports.etcd}",
            "bind-address": ADDRESS,
            "advertise-address": ADDRESS,
            "secure-port": self.ports.api,
            "tls-cert-file": self.directory / "server.crt",
            "tls-private-key-file": self.directory / "server.key",
            "client-ca-file": self.directory / "clients" / "ca.crt",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self.directory / "service-accounts.pub",
            "service-account-signing-key-file": self.directory / "service-accounts.key",
            "service-cluster-ip-range": SERVICES,
            "authorization-mode": "RBAC",
            "token-auth-file": self.directory / "tokens.csv",
            "endpoint-reconciler-type": "none",
            "profiling": "false",
            "audit-policy-file": self.directory / "audit-policy.yaml",
            "audit-log-path": self.audit_log,
            "audit-log-maxsize": 500,
        }
        return [str(self.binaries / "kube-apiserver"), *_flags(flags)]

    def _controllers(self) -> list[str]:
        flags = {
            "kubeconfig": self.kubeconfig_of("controllers"),
            "service-account-private-key-file": self.directory / "service-accounts.key",
            "root-ca-file": self.certificate_authority,
            "tls-cert-file": self.directory / "server.crt",
            "tls-private-key-file": self.directory / "server.key",
            "leader-elect": "false",
            "use-service-account-credentials": "false",
            "bind-address": ADDRESS,
            "secure-port": self.ports.controllers,
            "node-monitor-grace-period": "1h",
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
            "concurrent-deployment-syncs": 10,
            "concurrent-replicaset-syncs": 20,
        }
        return [str(self.binaries / "kube-controller-manager"), *_flags(flags)]

    def _scheduler(self) -> list[str]:
        flags = {
            "kubeconfig": self.kubeconfig_of("scheduler"),
            "tls-cert-file": self.directory / "server.crt",
            "tls-private-key-file": self.directory / "server.key",
            "leader-elect": "false",
            "bind-address": ADDRESS,
            "secure-port": self.ports.scheduler,
            "kube-api-qps": 500,
            "kube-api-burst": 1000,
        }
        return [str(self.binaries / "kube-scheduler"), *_flags(flags)]

    def _kwok(self) -> list[str]:
        flags = {
            "kubeconfig": self.kubeconfig_of("kwok"),
            "manage-all-nodes": "true",
            "node-lease-duration-seconds": 3600,
            "cidr": PODS,
            "node-ip": ADDRESS,
            "config": self.directory / "kwok.yaml",
        }
        return [str(gobuild.kwok() / "kwok"), *_flags(flags)]


def create(directory: Path, *, version: str = versions.API_TIER, tied: bool) -> ControlPlane:
    """A control plane in an empty directory: all its files, nothing started."""
    directory.mkdir(parents=True, mode=0o700)
    made = ControlPlane(directory, Ports.free(), version, tied)
    authority = keys.Authority(directory)
    authority.server("server", (ADDRESS,))
    (directory / "clients").mkdir()
    keys.Authority(directory / "clients")
    keys.service_account_keys(directory)
    tokens = {user: secrets.token_hex(16) for user in ADMINS}
    _write_private(directory / "tokens.csv", "".join(f'{t},{u},{u},"system:masters"\n' for u, t in tokens.items()))
    for user, token in tokens.items():
        _write_private(directory / f"{user}.token", token)
        write_kubeconfig(made, user, {"token": token})
    (directory / "audit-policy.yaml").write_text(yaml.safe_dump(_audit_policy()))
    stages.write(directory / "kwok.yaml")
    (directory / "state.json").write_text(json.dumps({"ports": asdict(made.ports), "version": version}))
    return made


def load(directory: Path) -> ControlPlane | None:
    """The control plane in a directory, or None."""
    try:
        known = json.loads((directory / "state.json").read_text())
    except FileNotFoundError:
        return None
    return ControlPlane(directory, Ports(**known["ports"]), known["version"], tied=False)


@contextmanager
def running(directory: Path, *, version: str = versions.API_TIER) -> Iterator[ControlPlane]:
    """A fresh control plane that answers, for as long as the context; it ends with this process at the latest."""
    made = create(directory, version=version, tied=True)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def write_kubeconfig(plane: ControlPlane, user: str, credentials: Mapping[str, str], *, name: str = "") -> Path:
    """Write a kubeconfig with these credentials of `user`; gives its path."""
    cluster = {"server": plane.server, "certificate-authority": str(plane.certificate_authority)}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab-api", "cluster": cluster}],
        "users": [{"name": user, "user": dict(credentials)}],
        "contexts": [{"name": "lab-api", "context": {"cluster": "lab-api", "user": user}}],
        "current-context": "lab-api",
    }
    path = plane.kubeconfig_of(name or user)
    _write_private(path, yaml.safe_dump(config))
    return path


def _audit_policy() -> dict[str, object]:
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived", "ResponseStarted"],
        "rules": [{"level": "Metadata", "users": list(AUDITED)}, {"level": "None"}],
    }


def _flags(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


def _is_free(port: int, *, again: bool = False) -> bool:
    """Whether nobody listens there; `again`: connections that were there a moment ago do not count."""
    with socket.socket() as probe:
        if again:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True
