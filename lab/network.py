"""The network that the nodes stand in, what keeps its packets inside, and the switch port of each node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.processes import attempt, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.docker import Docker

NAME = "orchestrator-lab"
BRIDGE = "orch-lab0"
RANGE = "198.18.0.0/15"  # Source: RFC 2544, set apart for tests of network devices
NODES = "198.18.0.0/17"
GATEWAY = "198.18.0.1"
PODS = "198.19.0.0/17"
SERVICES = "198.19.128.0/20"
NOWHERE = "198.19.255.254"  # what is sent here is refused at once by the rules below
_CHAIN = "ORCHESTRATOR-LAB"


def ensure(docker: Docker, *, sealed: bool) -> None:
    """The network, and the rules around it.

    Args:
        docker: Where the nodes run.
        sealed: Nodes reach nothing outside the lab; only published node images need the outside.
    """
    if not docker.succeeds("network", "inspect", NAME):
        options = [f"--subnet={NODES}", f"--gateway={GATEWAY}", f"--opt=com.docker.network.bridge.name={BRIDGE}"]
        docker.run("network", "create", "--driver=bridge", *options, NAME)
    if not Path(f"/sys/class/net/{BRIDGE}").exists():
        raise LabError(
            "the Docker daemon runs on another machine, where the lab cannot guard its network",
            remedy="unset DOCKER_HOST, and use a daemon on this machine or none",
        )
    _guard(sealed=sealed)


def remove(docker: Docker) -> None:
    """Take away the rules and the network."""
    _unguard()
    if docker.succeeds("network", "inspect", NAME):
        docker.run("network", "rm", NAME)


def cut(docker: Docker, node: str) -> None:
    """Let nothing through to or from a node, until `heal` or its next start; the node sees no change of its link."""
    run(["ip", "link", "set", "dev", _port(docker, node), "nomaster", "arp", "off"])


def heal(docker: Docker, node: str) -> None:
    """Undo `cut`."""
    run(["ip", "link", "set", "dev", _port(docker, node), "master", BRIDGE, "arp", "on"])


def is_cut(docker: Docker, node: str) -> bool:
    """Whether a running node is cut off; not, where it is about to stop and has no port any more."""
    try:
        return not (Path("/sys/class/net") / _port(docker, node) / "master").exists()
    except LabError:
        return False


def _port(docker: Docker, node: str) -> str:
    """The machine's end of a node's network cable."""
    peer = docker.run("exec", node, "cat", "/sys/class/net/eth0/iflink").strip()
    for interface in Path("/sys/class/net").iterdir():
        if (interface / "ifindex").read_text().strip() == peer:
            return interface.name
    raise LabError(f"{node} has no port on this machine", remedy=f"python -m lab power {node} on")


def _guard(*, sealed: bool) -> None:
    """Packets to the lab's addresses go to the lab's bridge or nowhere.

    A node that lost a route sends by its default gateway, which is this machine, and this machine has a default gateway
    too: something out there could answer in the place of a pod.
    """
    rules = [f"-o {BRIDGE} -j RETURN", "-o lo -j RETURN", f"-d {RANGE} -j REJECT"]
    if sealed:
        rules.append(f"-i {BRIDGE} -m conntrack --ctstate NEW -j REJECT")
    lines = [f"-F {_CHAIN}", *_away_with_jumps(), *(f"-A {_CHAIN} {rule}" for rule in rules)]
    lines += [f"-I {_forward_chain()} 1 -j {_CHAIN}", f"-I OUTPUT 1 -d {RANGE} -j {_CHAIN}"]
    _at_once(lines)


def _unguard() -> None:
    if not attempt(["iptables", "-w", "-n", "-L", _CHAIN]).returncode:
        _at_once([*_away_with_jumps(), f"-F {_CHAIN}", f"-X {_CHAIN}"])


def _away_with_jumps() -> list[str]:
    """What removes all ways into our chain that there are."""
    listing = run(["iptables", "-w", "-S"]).splitlines()
    return [rule.replace("-A ", "-D ", 1) for rule in listing if rule.endswith(f"-j {_CHAIN}")]


def _at_once(lines: Sequence[str]) -> None:
    """Change rules all together or not at all: a lab that is killed meanwhile must not leave half of them.

    Source: iptables-restore(8): a table is committed as a whole; `--noflush` keeps what is not named; naming a chain of
    one's own makes it.
    """
    text = "\n".join(("*filter", f":{_CHAIN} - [0:0]", *lines, "COMMIT", ""))
    run(["iptables-restore", "--wait", "--noflush"], stdin=text)


def _forward_chain() -> str:
    """Where a rule comes before Docker's own. Source: Docker's documentation, "Packet filtering and firewalls"."""
    return "FORWARD" if attempt(["iptables", "-w", "-n", "-L", "DOCKER-USER"]).returncode else "DOCKER-USER"
