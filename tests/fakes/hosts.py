"""Hosts for tests: whoever runs them counts as root, so that nobody needs sudo for them."""

from pathlib import Path

from orchestrator.engine.clock import SystemClock
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.keyring import Keyring
from orchestrator.hosts.local import LocalTransport
from orchestrator.hosts.machine import Machine
from orchestrator.hosts.secrets import Secrets
from orchestrator.hosts.ssh import SshTransport, Switchboard


class HereAsRoot(LocalTransport):
    """This machine, as if we were root."""

    user = "root"


def machine(transport, *, name="node-1", secrets=None, patience_s=0.0, clock=None, retried=None):
    """A host over a transport."""
    return Machine(
        name, transport, secrets or Secrets(), clock or SystemClock(), patience_s=patience_s, retried=retried
    )


def local(**how):
    return machine(HereAsRoot(), **how)


def over_ssh(config: Path, alias="node-1", *, secrets=None, **how):
    """A host that is reached as a file of settings says."""
    known = secrets or Secrets()
    board = Switchboard(Keyring(known))
    route = SshConfig(config, None).route(alias)
    return machine(SshTransport(route, board), name=alias, secrets=known, **how)


def settings(alias, port, **more):
    """A block of ~/.ssh/config for a server on loopback."""
    lines = {
        "HostName": "127.0.0.1",
        "Port": port,
        "User": "root",
        "IdentityAgent": "none",
        "GlobalKnownHostsFile": "none",
        "HashKnownHosts": "no",
        **more,
    }
    return f"Host {alias}\n" + "".join(f"  {key} {value}\n" for key, value in lines.items())
