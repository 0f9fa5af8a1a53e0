"""`python -m lab bench`: figures beside kubectl's, as ratios."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lab import host, versions
from lab.api import tier
from lab.api.client import Client
from lab.bench import backup, drains, report, restores, ssh, startup, upgrades
from lab.bench.report import Figures

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

STARTUP, SWEEP, SSH = "startup", "sweep", "ssh"
SIZES = (50, 250, 500)
#: Pods on the node -> how often each tool drains it: kubectl needs a second for five of them.
REPEAT = {50: 3, 250: 2, 500: 1}
SWEPT = ("free", "tenth")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `bench` to the lab's command line."""
    bench = commands.add_parser("bench", help="drains beside kubectl's in turn, as ratios (docs/performance.md)")
    parts = (*drains.SCENARIOS, SWEEP, STARTUP, SSH)
    bench.add_argument("--quick", action="store_true", help="one run each with 50 pods, without the slow scenarios")
    bench.add_argument("--sizes", nargs="+", type=int, metavar="PODS", help="default: 50 250 500")
    bench.add_argument("--repeat", type=int, help=f"runs of each tool (default: {REPEAT[50]}; fewer where it is long)")
    bench.add_argument("--only", nargs="+", choices=parts, metavar="PART", help=f"some of: {', '.join(parts)}")
    bench.add_argument("--version", default=versions.API_TIER, help=f"of Kubernetes: {', '.join(versions.KUBERNETES)}")
    bench.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, beside those of other parts")
    bench.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    bench.set_defaults(run=_bench)
    others = bench.add_subparsers(metavar="upgrade|restore|backup", help="something else in place of drains")
    upgrades.add(others)
    restores.add(others)
    backup.add(others)


def _bench(args: argparse.Namespace) -> int:
    host.check_machine()
    parts = args.only or (("free", "tenth", STARTUP) if args.quick else (*drains.SCENARIOS, SWEEP, STARTUP, SSH))
    sizes = args.sizes or (SIZES[:1] if args.quick else SIZES)
    figures = Figures.load(args.json) if args.json else Figures()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        if STARTUP in parts:
            figures = _kept(figures.with_startup(_startup(Path(directory))), args.json)
        if set(parts) - {STARTUP, SSH}:
            figures = _drains(args, Path(directory), parts, sizes, figures)
        if SSH in parts:
            _ssh(args, Path(directory))
    print(report.text(figures))
    if args.write:
        report.write(figures)
    return 0


def _startup(directory: Path) -> dict[str, float]:
    place = directory / "startup"
    place.mkdir()
    return startup.measure(place)


def _ssh(args: argparse.Namespace, directory: Path) -> None:
    table = ssh.text(ssh.measure(directory / "ssh", rounds=args.repeat or (1 if args.quick else ssh.ROUNDS)))
    print(f"## ssh\n\n{table}\n")
    if args.write:
        ssh.write(table)


def _drains(
    args: argparse.Namespace, directory: Path, parts: Sequence[str], sizes: Sequence[int], figures: Figures
) -> Figures:
    with ExitStack() as stack:
        plane = stack.enter_context(tier.running(directory / "api", version=args.version))
        load, other = (stack.enter_context(Client(plane, user)) for user in ("load", "other"))
        home = directory / "home"
        home.mkdir()
        bench = drains.Workbench(plane, load, other, home)
        for name in (each for each in parts if each in drains.SCENARIOS):
            for pods in sizes:
                repeat = args.repeat or (1 if args.quick else REPEAT.get(pods, 1))
                figures = _kept(figures.with_rows(bench.compare(name, pods, repeat)), args.json)
        if SWEEP in parts:
            for name in SWEPT:
                figures = _kept(
                    figures.with_rows(bench.sweep(name, args.repeat or REPEAT[drains.SWEEP_PODS])), args.json
                )
    return figures


def _kept(figures: Figures, path: Path | None) -> Figures:
    if path:
        path.write_text(json.dumps(figures.as_json()))
    return figures
