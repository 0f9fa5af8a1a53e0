"""What the lab remembers of its clusters: one directory each, with a file that is replaced as a whole."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from lab import cache, progress
from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST_NODE = 11
LOAD_BALANCER = 10
_SLOTS = range(1, 127)  # third octet of the addresses of a cluster's nodes


@dataclass(frozen=True, slots=True)
class Shape:
    """How many control planes and workers."""

    control_planes: int
    workers: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """`1+2` as one control plane and two workers."""
        match = re.fullmatch(r"([1-9])\+(\d{1,2})", text)
        if not match:
            raise LabError(f"`{text}` is no shape", remedy="give control planes + workers, such as --shape 1+2")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.control_planes}+{self.workers}"

    @property
    def total(self) -> int:
        """All nodes."""
        return self.control_planes + self.workers


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster."""

    name: str
    role: Literal["control-plane", "worker", "load-balancer"]
    address: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster as it was asked for, and as far as it came."""

    name: str
    shape: str
    version: str
    offered: tuple[str, ...]
    image: str
    slot: int
    status: Literal["creating", "up"] = "creating"
    containers: dict[str, str] = field(default_factory=dict)
    api_server: str = ""

    @property
    def directory(self) -> Path:
        """Where everything of this cluster lies."""
        return _directory() / self.name

    @property
    def kubeconfig(self) -> Path:
        """The file for kubectl; the user's own is never touched."""
        return self.directory / "kubeconfig"

    @property
    def context(self) -> str:
        """The name of the context in it."""
        return f"kind-{self.name}"

    @property
    def published(self) -> bool:
        """Whether the nodes run an image that someone else built."""
        return not self.version

    def nodes(self) -> tuple[Node, ...]:
        """The nodes in kind's order and with kind's names, the load balancer last.

        Source: kind 0.33 `MakeNodeNamer`: the first of a role has no number, the second has 2.
        """
        shape = Shape.parse(self.shape)
        roles: list[Literal["control-plane", "worker"]] = ["control-plane"] * shape.control_planes
        roles += ["worker"] * shape.workers
        found: list[Node] = []
        for place, role in enumerate(roles):
            count = roles[: place + 1].count(role)
            name = f"{self.name}-{role}{count if count > 1 else ''}"
            found.append(Node(name, role, f"198.18.{self.slot}.{FIRST_NODE + place}"))
        if shape.control_planes > 1:
            balancer = f"198.18.{self.slot}.{LOAD_BALANCER}"
            found.append(Node(f"{self.name}-external-load-balancer", "load-balancer", balancer))
        return tuple(found)

    def asked(self) -> tuple[object, ...]:
        """What a person chose; the rest follows from it."""
        return self.name, self.shape, self.version, self.offered, self.image

    def save(self) -> Cluster:
        """Write it down, as a whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self.directory / "state.json.new"
        draft.write_text(json.dumps(asdict(self), indent=1))
        draft.replace(self.directory / "state.json")
        return self

    def forget(self) -> None:
        """Remove all that is remembered of it."""
        (self.directory / "state.json").unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def load(name: str) -> Cluster | None:
    """The cluster of that name."""
    path = _directory() / name / "state.json"
    if not path.exists():
        return None
    known = json.loads(path.read_text())
    return replace(Cluster(**known), offered=tuple(known["offered"]))


def clusters() -> tuple[Cluster, ...]:
    """All clusters, by name."""
    names = sorted(path.parent.name for path in _directory().glob("*/state.json"))
    return tuple(found for found in map(load, names) if found is not None)


def free_slot() -> int:
    """A part of the address range that no cluster has."""
    taken = {cluster.slot for cluster in clusters()}
    return next(slot for slot in _SLOTS if slot not in taken)


def check_name(name: str) -> str:
    """The name, when it can be one. Source: host names of containers are DNS labels, kind warns above 50 characters."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?", name):
        raise LabError(f"`{name}` cannot name a cluster", remedy="use up to 32 small letters, digits and hyphens")
    return name


@contextmanager
def lock(what: str) -> Iterator[None]:
    """One lab command at a time on `what`; the kernel lets go of it whatever ends the command."""
    run_directory().mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run_directory() / f"{what}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"another lab command works on {what}: waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def run_directory() -> Path:
    """Where the lab keeps what runs."""
    return cache.root() / "run"


def _directory() -> Path:
    return run_directory() / "clusters"
