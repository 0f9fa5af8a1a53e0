"""`python -m lab api`: a control plane without nodes of its own, to try things on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from lab import gobuild, host, progress, state, versions
from lab.api import objects, tier
from lab.api.client import Client

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

NAME = "api"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `api` to the lab's command line."""
    api = commands.add_parser("api", help="a control plane as processes on loopback, with pretended nodes")
    actions = api.add_subparsers(required=True, metavar="COMMAND")
    up = actions.add_parser("up", help="start one, or use the one that is there")
    up.add_argument("--name", default=NAME)
    up.add_argument("--version", default=versions.API_TIER, help=f"of Kubernetes: {', '.join(versions.KUBERNETES)}")
    up.add_argument("--nodes", type=int, default=2, help="pretended nodes to begin with (default: 2)")
    up.set_defaults(run=_up)
    down = actions.add_parser("down", help="stop one and remove its data")
    down.add_argument("--name", default=NAME)
    down.set_defaults(run=_down)
    actions.add_parser("status", help="those that were started").set_defaults(run=_status)


def directory() -> Path:
    """Where control planes are that `up` started."""
    return state.run_directory() / "api"


def down(name: str) -> bool:
    """Stop one, however far it came, and remove its data. False when there was none."""
    place = directory() / state.check_name(name)
    known = tier.load(place)
    if known is not None:
        known.stop()
    there = place.exists()
    shutil.rmtree(place, ignore_errors=True)
    return there


def names() -> tuple[str, ...]:
    """Of all that were started, also of those that were left half made."""
    return tuple(sorted(path.name for path in directory().glob("*") if path.is_dir()))


def _up(args: argparse.Namespace) -> int:
    host.check_machine()
    place = directory() / state.check_name(args.name)
    with state.lock(f"api-{args.name}"):
        known = tier.load(place)
        if known is None:
            shutil.rmtree(place, ignore_errors=True)
            _build(args.version)
            known = tier.create(place, version=args.version, tied=False)
        with progress.step(f"control plane {args.name}, Kubernetes {known.version}"):
            known.start()
            with Client(known, "load") as client:
                objects.ensure_nodes(client, [f"node-{number}" for number in range(1, args.nodes + 1)])
    print(f"{known.kubectl} --kubeconfig {known.kubeconfig} get nodes")
    return 0


def _build(version: str) -> None:
    gobuild.kubernetes(version)
    gobuild.etcd(versions.KUBERNETES[version].etcd)
    gobuild.kwok()


def _down(args: argparse.Namespace) -> int:
    with state.lock(f"api-{args.name}"):
        progress.say(f"{args.name} is gone" if down(args.name) else f"there is no control plane {args.name}")
    return 0


def _status(_: argparse.Namespace) -> int:
    lines = []
    for name in names():
        known = tier.load(directory() / name)
        if known is None:
            lines.append(f"{name}: left half made")
            continue
        off = [daemon.name for daemon in known.daemons if daemon.pid() is None]
        condition = f"stopped: {', '.join(off)}" if off else "running"
        lines.append(f"{name}: {known.version}, {known.server}, {condition}, {known.kubeconfig}")
    print("\n".join(lines) or "no control planes")
    return 0
