"""The use cases on hosts themselves: where they are, whether they answer, whose keys are trusted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.engine.host import Reached, Vouched, demand
from orchestrator.engine.together import each
from orchestrator.errors import ApiError, BadUsage, HostError, HostUnreachable
from orchestrator.hosts import known
from orchestrator.hosts.commands import Sudo
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.locate import BySsh, Place, by_ssh, place
from orchestrator.hosts.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestrator.app import App
    from orchestrator.hosts.known import HostKey
    from orchestrator.hosts.secrets import Secrets

#: To look at a host.
LOOK_S = 20.0
_LOOK = "id -un; if [ -d /run/systemd/system ]; then echo yes; else echo no; fi"


def places(app: App, names: Sequence[str], *, say: Callable[[str], None]) -> tuple[Place, ...]:
    """Where hosts are: the cluster's nodes, all of them or those of that name, and what else `~/.ssh/config` knows.

    Args:
        app: How the cluster is reached.
        names: Of nodes, or of SSH hosts; none for every node.
        say: Told when named hosts are looked for without the cluster.

    Raises:
        ApiError: The cluster does not tell, and no host is named.
    """
    wanted = tuple(dict.fromkeys(n.removeprefix("node/").removeprefix("nodes/") for n in names))
    try:
        nodes = {n.name: n for n in app.view.nodes()}
    except (ApiError, BadUsage) as err:
        if not wanted:
            raise
        say(f"without the cluster's addresses, by ~/.ssh/config alone (an address can be named, too): {err}")
        nodes = {}
    at = by_ssh if app.settings.ssh else place
    return tuple(at(nodes[n]) if n in nodes else BySsh(n, "") for n in wanted or nodes)


def pool(app: App, secrets: Secrets, patience_s: float) -> Pool:
    """The hosts of this process, by the user's own settings."""
    return Pool(SshConfig(), secrets, app.clock, patience_s=patience_s, trusting=app.trusting)


# ---- check ----------------------------------------------------------------------------------------------------


def check(hosts: Pool, where: Sequence[Place], *, at_once: int) -> tuple[Reached, ...]:
    """How each host answers, in the order in which they were named."""
    outcomes = each(where, lambda one: _reached(hosts, one), at_once=at_once)
    return tuple(
        o.value or Reached(_name(o.item), str(o.item), error=str(o.error), remedy=o.error.remedy if o.error else "")
        for o in outcomes
    )


def _reached(hosts: Pool, where: Place) -> Reached:
    host = hosts.host(where)
    looked = demand(host, host.run(["sh", "-c", _LOOK], timeout_s=LOOK_S, sudo=False, repeatable=True))
    user, systemd = looked.text.split()
    latency_s = host.run(["true"], timeout_s=LOOK_S, sudo=False, repeatable=True).took_s
    found = Reached(_name(where), str(where), user, "", systemd == "yes", latency_s)
    try:
        how = host.sudo()
    except HostError as err:
        return replace(found, error=str(err), remedy=err.remedy)
    return replace(found, root="is root" if how is Sudo.NONE else f"sudo {how.value}")


def _name(where: Place) -> str:
    return where.alias if isinstance(where, BySsh) else where.container


# ---- trust ----------------------------------------------------------------------------------------------------


def keys(
    hosts: Pool, where: Sequence[Place], *, replacing: bool
) -> tuple[tuple[tuple[Place, tuple[HostKey, ...], tuple[Vouched, ...]], ...], HostError | None]:
    """The keys that each host shows, with what is known of them. Nothing is changed.

    Returns:
        Those of hosts that answer; and the error of one that does not, whose notes name the others, or None.

    Raises:
        HostKeyChanged: One is not the known one, and `replacing` is not asked for; or it is revoked.
        HostError: No host answers; notes name the others.
    """
    outcomes = each(where, lambda one: _shown(hosts, one, replacing=replacing))
    shown = tuple((o.item, *o.value) for o in outcomes if o.value)
    errors = sorted((o.error for o in outcomes if o.error), key=lambda e: isinstance(e, HostUnreachable))
    for other in errors[1:]:
        errors[0].add_note(str(other))
    away = errors[0] if errors else None
    if away is None or (shown and isinstance(away, HostUnreachable)):
        return shown, away
    raise away


def _shown(hosts: Pool, where: Place, *, replacing: bool) -> tuple[tuple[HostKey, ...], tuple[Vouched, ...]]:
    if not isinstance(where, BySsh):
        raise BadUsage(
            f"{where.container} is reached by `{where}`: there is no host key to trust", remedy="leave it out"
        )
    route = hosts.route(where)
    hop = route[-1]
    shown = hosts.board.keys(route)
    states = known.states(known.load(hop.known_files), hop.alias, hop.key_name, shown, replace=replacing)
    file = str(hop.known_files[0]) if hop.known_files else ""
    return shown, tuple(Vouched(hop.alias, hop.key_name, k.kind, k.fingerprint, states[k], file) for k in shown)


def trust(hosts: Pool, where: Place, shown: Sequence[HostKey], *, replacing: bool) -> None:
    """Put a host's keys into the first of its known_hosts files.

    Raises:
        BadUsage: It has none.
        Refused: A line for many hosts is in the way.
    """
    assert isinstance(where, BySsh)  # noqa: S101  others have no keys, and were refused
    hop = hosts.route(where)[-1]
    if not hop.known_files:
        raise BadUsage(f"{hop.alias}: UserKnownHostsFile is none", remedy="give it a file in ~/.ssh/config")
    known.trust(hop.known_files[0], hop.key_name, shown, replace=replacing, hash_names=hop.hash_names)
