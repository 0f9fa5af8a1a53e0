"""What actions on nodes need of a cluster and its hosts. `Site` cannot change anything; `SiteHands` can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from orchestrator.cluster.ports import Hands, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from orchestrator.backup.catalogue import Shelf
    from orchestrator.backup.stores import Store
    from orchestrator.cluster.frame import Query
    from orchestrator.cluster.model import Renewal, Written
    from orchestrator.engine.host import Completed, Host


@dataclass(frozen=True, slots=True)
class Errand:
    """What a command that outlasts a cut connection is known by, on its host.

    Attributes:
        plan: A name of the plan's own, so that a resumed run finds it again.
        step: The step's id.
    """

    plan: str
    step: str


@dataclass(frozen=True, slots=True)
class Trace:
    """What there is of an errand.

    Attributes:
        state: `absent`, `running`, `ended`, `late` (it was ended for taking too long), or `vanished` (it is gone
            without a result).
        rc: Its exit status, when it ended.
    """

    state: str
    rc: int = -1

    @property
    def succeeded(self) -> bool:
        """It ended well."""
        return self.state == "ended" and self.rc == 0


class Site(View, Protocol):
    """Reads a cluster and its hosts."""

    def ask(self, node: str, query: Query, *words: str) -> str:
        """The answer of `node`'s host to a question that changes nothing there. Answers may be a second or two old.

        Raises:
            HostError: It could not be asked, or the question failed.
        """
        ...

    def trace(self, node: str, errand: Errand) -> Trace:
        """What became of a command that was started on `node` earlier.

        Raises:
            HostError: The host could not be asked.
        """
        ...

    def heartbeat(self, node: str) -> Renewal | None:
        """When the kubelet of `node` last renewed its lease; None when there is none."""
        ...

    def leads(self, component: str) -> Renewal | None:
        """When the leader of a component last renewed its lease; None when none leads."""
        ...

    def glance(self) -> None:
        """One authorised read through the operator's way into the cluster.

        Raises:
            ApiError: It was not answered; nothing is waited for.
        """
        ...

    def configuration(self) -> str:
        """The ClusterConfiguration of kubeadm, as YAML; "" where kubeadm left none."""
        ...

    def deprecated(self) -> tuple[str, ...] | None:
        """APIs that are asked for and will be removed, as `GROUP/VERSION/RESOURCE@RELEASE`; None if that is hidden."""
        ...

    def written(self, versions: Iterable[str]) -> tuple[Written, ...] | None:
        """Who set fields of objects through these API versions (`GROUP/VERSION` or `GROUP/VERSION/RESOURCE`).

        None if some of it is hidden.
        """
        ...

    def kept(self, name: str) -> Path | None:
        """The file of that name that was fetched from a host before, None where there is none."""
        ...

    def place(self, name: str) -> Path:
        """Where a file of that name is, or would be, on this machine."""
        ...

    def shelf(self, url: str, node: str) -> Shelf:
        """A destination of backups, to read; `node:` in its URL stands for the host of `node`.

        Raises:
            BadUsage: It is none.
        """
        ...


class SiteHands(Site, Hands, Protocol):
    """Changes a cluster and its hosts."""

    def host(self, node: str) -> Host:
        """The host of `node`; what runs on it goes to the run's record. Answers that it gave before count no more."""
        ...

    def here(self) -> Host:
        """The machine that this process runs on, for the operator's own commands."""
        ...

    def finish(
        self,
        node: str,
        argv: Sequence[str],
        errand: Errand,
        *,
        timeout_s: float,
        anew: bool = False,
        on_line: Callable[[str], None] | None = None,
        waiting: Callable[[Exception, float], None] | None = None,
    ) -> Completed:
        """Run a command on `node` to its end, once, whatever the network does; one that runs already is found again.

        One that ended before, and not well, is started anew; with `anew` also one that ended well: what it did was
        undone since.

        Raises:
            HostError: See `hosts.detached.run_detached`.
        """
        ...

    def store(self, url: str, node: str) -> Store:
        """A destination of backups, to write; otherwise as `shelf`."""
        ...

    def keep(self, node: str, path: str, name: str, *, timeout_s: float, compared: bool = True) -> Path:
        """Fetch a file from `node`, to be found by `kept` later; `compared` as for `Host.fetch`.

        Raises:
            HostError: It could not be copied whole.
        """
        ...
