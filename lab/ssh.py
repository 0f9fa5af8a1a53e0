"""SSH to the nodes: one client key of the lab's, and host keys that are known before the first connection."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lab import cache
from lab.processes import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lab.state import Cluster


def client_key() -> Path:
    """The private key that every node accepts for root; its public half lies beside it."""
    return cache.artifact("ssh-key", [Path(__file__).name], _make_key) / "id_ed25519"


def public_key() -> str:
    """The line for a node's authorized_keys."""
    return client_key().with_suffix(".pub").read_text()


def _make_key(out: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rehearsal-lab", "-f", str(out / "id_ed25519")])


def known_hosts(cluster: Cluster) -> Path:
    """The file with the host keys of a cluster's nodes."""
    return cluster.directory / "known_hosts"


def config(cluster: Cluster) -> Path:
    """A configuration with every node in it: `ssh -F FILE NODE`."""
    return cluster.directory / "ssh_config"


def write(cluster: Cluster, host_keys: Mapping[str, str]) -> None:
    """Write down what ssh needs: how to reach each node, and the host keys that it showed over `docker exec`.

    Args:
        cluster: Whose nodes.
        host_keys: Node -> the contents of its ssh_host_*_key.pub files.
    """
    lines, hosts = [], []
    for node in cluster.nodes():
        if node.name not in host_keys:
            continue
        keys = (line.split()[:2] for line in host_keys[node.name].splitlines())
        lines += [f"{node.name},{node.address} {' '.join(key)}\n" for key in keys]
        hosts.append(f"Host {node.name} {node.address}\n  HostName {node.address}\n")
    known_hosts(cluster).write_text("".join(lines))
    common = {
        "User": "root",
        "IdentityFile": client_key(),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": known_hosts(cluster),
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": 5,
        "LogLevel": "ERROR",
    }
    everyone = "Host *\n" + "".join(f"  {key} {value}\n" for key, value in common.items())
    config(cluster).write_text("".join(hosts) + everyone)


def command(cluster: Cluster, node: str, remote: Sequence[str] = ()) -> list[str]:
    """The command line that reaches a node; several words arrive as they are here, a single one is a shell line."""
    line = [remote[0] if len(remote) == 1 else shlex.join(remote)] if remote else []
    return ["ssh", "-F", str(config(cluster)), node, *line]


def become(cluster: Cluster, node: str, remote: Sequence[str]) -> NoReturn:
    """Turn this process into ssh."""
    argv = command(cluster, node, remote)
    os.execvp(argv[0], argv)  # noqa: S606 - the arguments are our own
