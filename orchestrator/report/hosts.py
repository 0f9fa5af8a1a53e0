"""The results of `hosts check` and `hosts trust`, for people and as documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.report import API_VERSION, shapes
from orchestrator.report.text import columns, count, wrapped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestrator.engine.host import Reached, Vouched


def checked(hosts: Sequence[Reached]) -> str:
    """A row for each host, and below what is wrong with those that cannot be worked on."""
    if not hosts:
        return "there are no hosts"
    header = ("HOST", "VIA", "USER", "ROOT", "LATENCY", "DETACHED BY")
    lines = columns(header, (_row(h) for h in hosts))
    for host in (h for h in hosts if h.error):
        lines += ["", *wrapped(f"  {host.error}", 4)]
        lines += [line for part in host.remedy.splitlines() for line in wrapped(f"    remedy: {part}", 12)]
    bad = sum(bool(h.error) for h in hosts)
    return "\n".join([*lines, "", f"{count(len(hosts), 'host')}: {len(hosts) - bad} can be worked on, {bad} cannot"])


def _row(host: Reached) -> tuple[str, ...]:
    if host.latency_s is None:
        return (host.name, host.via, host.user or "-", "-", "-", "NOT REACHED")
    by = "systemd" if host.systemd else "a session of its own"
    return (host.name, host.via, host.user, host.root or "NO", f"{host.latency_s * 1000:.0f} ms", by)


def host_list(hosts: Sequence[Reached]) -> shapes.HostList:
    """The result of `hosts check`."""
    return shapes.HostList(
        API_VERSION,
        "HostList",
        [
            shapes.HostShape(
                name=h.name,
                via=h.via,
                reached=h.latency_s is not None,
                user=h.user or None,
                root=h.root or None,
                systemd=None if h.latency_s is None else h.systemd,
                latency_s=None if h.latency_s is None else round(h.latency_s, 4),
                error=h.error,
                remedy=h.remedy,
            )
            for h in hosts
        ],
    )


def keys(found: Sequence[Vouched]) -> str:
    """Each key with its fingerprint, under its host."""
    lines = []
    for host in dict.fromkeys(k.host for k in found):
        mine = [k for k in found if k.host == host]
        called = "" if mine[0].name == host else f" ({mine[0].name} in known_hosts)"
        lines.append(f"{host}{called}:")
        lines += [f"  {k.state:<8}{k.kind:<20} {k.fingerprint}" for k in mine]
    return "\n".join(lines)


def key_list(found: Sequence[Vouched]) -> shapes.HostKeyList:
    """The result of `hosts trust`."""
    return shapes.HostKeyList(
        API_VERSION,
        "HostKeyList",
        [shapes.HostKeyShape(k.host, k.name, k.kind, k.fingerprint, k.state, k.file) for k in found],
    )
