"""Where a node is, judged from what the cluster says of it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestrator.errors import BadUsage, FactUnreadable

if TYPE_CHECKING:
    from orchestrator.cluster.model import Node

MINIKUBE = "minikube.k8s.io/name"
#: In this order. Source: core/v1 NodeAddressType.
ADDRESSES = ("InternalIP", "ExternalIP", "Hostname")


@dataclass(frozen=True, slots=True)
class InContainer:
    """A container on this machine.

    Attributes:
        engine: The program that reaches it: docker, podman or nerdctl.
        container: Its name.
    """

    engine: str
    container: str

    def __str__(self) -> str:
        return f"{self.engine} exec {self.container}"


@dataclass(frozen=True, slots=True)
class BySsh:
    """A machine with an SSH server.

    Attributes:
        alias: Its name for `~/.ssh/config`.
        address: Where it is, unless that says otherwise; "" when nobody says.
        user: Who logs in; "" leaves it to the settings.
        port: 0 leaves it to the settings.
    """

    alias: str
    address: str
    user: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"ssh {self.address or self.alias}"


Place = InContainer | BySsh


def named(text: str) -> BySsh:
    """Where `sftp://[USER@]HOST[:PORT]` is. HOST may be a name of `~/.ssh/config`.

    Raises:
        BadUsage: It names no host.
    """
    parts = urlsplit(text)
    if not parts.hostname:
        raise BadUsage(f"{text} names no host", remedy="write sftp://[USER@]HOST[:PORT]/DIR")
    host = parts.netloc.rpartition("@")[2]
    return BySsh(host.removesuffix(f":{parts.port}") if parts.port else host, "", parts.username or "", parts.port or 0)


def place(node: Node) -> Place:
    """Where `node` is.

    Raises:
        FactUnreadable: It has no address, or a provider id that is not of kind's form.

    Source: kind's provider ids are `kind://ENGINE/CLUSTER/NODE`, and its nodes' names those of their containers.
    minikube's nodes have a label with the profile's name; with its container drivers they run Ubuntu or Debian, in a
    virtual machine Buildroot.
    """
    if node.provider_id.startswith("kind://"):
        parts = node.provider_id.removeprefix("kind://").split("/")
        if len(parts) != 3 or parts[0] not in ("docker", "podman", "nerdctl"):
            raise FactUnreadable(
                f"{node.name}: its provider id {node.provider_id} is not one of kind's",
                remedy="reach it by SSH: name it on the command line, with a block in ~/.ssh/config",
            )
        return InContainer(parts[0], parts[2])
    if MINIKUBE in node.labels and not node.os_image.startswith("Buildroot"):
        return InContainer("docker", node.name)
    return by_ssh(node)


def address(node: Node) -> str:
    """Where `node` is reached over the network; "" when the cluster knows no address of it."""
    return next((found for kind in ADDRESSES if (found := node.addresses.get(kind))), "")


def by_ssh(node: Node) -> BySsh:
    """Where `node` is for SSH.

    Raises:
        FactUnreadable: It has no address.
    """
    if found := address(node):
        return BySsh(node.name, found)
    raise FactUnreadable(
        f"{node.name}: the cluster knows no address of it",
        remedy=f"give it one: HostName for {node.name} in ~/.ssh/config",
    )
