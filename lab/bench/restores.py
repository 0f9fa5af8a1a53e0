"""`python -m lab bench restore`: the textbook's restore of etcd and orchestrator's, on equal clusters."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab import host, progress
from lab.bench.report import PAGE, put, table
from lab.bench.restore_textbook import Textbook
from lab.bench.upgrades import OURS, TEXTBOOK, TOOLS, environ, new_cluster
from lab.errors import LabError
from lab.processes import TIED_TO_US, wait_for
from lab.state import Shape
from lab.upgrades.askers import ApiClient

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from lab.upgrades.access import Access

    #: What is measured.
    _Run = Callable[[], None]

NAME = "bench-restore"
SHAPES = ("1+2", "3+1")
#: Of the time for which the API is away, as a part of the textbook's.
TARGET = 0.5
_BACK_S = 120
_SOME = 10


@dataclass(frozen=True, slots=True)
class Restored:
    """One restore of one cluster.

    Attributes:
        tool: Of TOOLS.
        shape: Control planes + workers.
        took_s: The whole, from the first command to the end of the last; the snapshot had been taken before.
        away_s: The longest time in which the API did not answer, asked every 0.2 s.
        failed: Requests that were not answered.
    """

    tool: str
    shape: str
    took_s: float
    away_s: float
    failed: int


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `restore` to the command line of the benchmarks."""
    restore = commands.add_parser("restore", help="restores of etcd beside the textbook's, on equal clusters")
    restore.add_argument("--shapes", nargs="+", default=SHAPES, metavar="SHAPE", help="default: 1+2 3+1")
    restore.add_argument("--name", default=NAME, help=f"of the clusters, which are new each time (default: {NAME})")
    restore.add_argument("--json", type=Path, metavar="FILE", help="keep the runs there, beside those of other shapes")
    restore.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    restore.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    host.check_machine()
    runs = [Restored(**each) for each in json.loads(args.json.read_text())] if args.json and args.json.exists() else []
    for shape in args.shapes:
        for tool in TOOLS:
            done = measure(tool, Shape.parse(shape), name=args.name)
            runs = [*(each for each in runs if (each.tool, each.shape) != (tool, shape)), done]
            if args.json:
                args.json.write_text(json.dumps([asdict(each) for each in runs], indent=1))
    print(text(runs))
    if args.write:
        PAGE.write_text(put(PAGE.read_text(), "restores", text(runs), page=PAGE))
    return 0


def measure(tool: str, shape: Shape, *, name: str) -> Restored:
    """Take a new cluster back to a snapshot, with a client that asks its API; the cluster goes afterwards."""
    with new_cluster(name, shape) as access, tempfile.TemporaryDirectory(prefix="bench-") as home:
        access.kubectl("create", "configmap", "before")
        run = _textbook(access) if tool == TEXTBOOK else _ours(access, Path(home))
        access.kubectl("create", "configmap", "after")
        with ApiClient(access) as client:
            wait_for("answers", lambda: client.so_far().asked > _SOME, timeout_s=_BACK_S, remedy="see the API server")
            began = time.monotonic()
            with progress.step(f"{tool} restores {shape} nodes"):
                run()
            took_s, ended = time.monotonic() - began, time.time()
            wait_for(
                "answers", lambda: client.so_far().after(ended).asked > _SOME, timeout_s=_BACK_S, remedy="see the API"
            )
            answers = client.stop()
        _insist(access)
        progress.say(f"API: {answers}")
        return Restored(tool, str(shape), took_s, answers.longest_outage_s, len(answers.failures))


def _textbook(access: Access) -> _Run:
    book = Textbook(access)
    book.save()
    return book.restore


def _ours(access: Access, home: Path) -> _Run:
    env = environ(access, home)
    words = ["--kubeconfig", str(access.cluster.kubeconfig), "--context", access.cluster.context, "--ssh"]

    def command(*what: str) -> None:
        argv = [str(Path(sys.executable).parent / OURS), "etcd", *what, *words]
        done = subprocess.run([*TIED_TO_US, *argv], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"`{' '.join(argv)}` ended with {done.returncode}:\n{done.stderr[-2000:]}", remedy="see it")

    command("backup")
    return lambda: command("restore", "last", "--yes")


def _insist(access: Access) -> None:
    """The figures must not be those of a restore that is not one."""
    names = {each["metadata"]["name"] for each in access.read("configmaps")["items"]}
    if "before" not in names or "after" in names:
        raise LabError(f"it was not restored: {sorted(names)}", remedy="see what the tool said")


def text(runs: Sequence[Restored]) -> str:
    """Both tools' figures of each shape, and the ratios."""
    rows = []
    for shape in dict.fromkeys(each.shape for each in runs):
        pair = {each.tool: each for each in runs if each.shape == shape}
        theirs, ours = pair.get(TEXTBOOK), pair.get(OURS)
        if not (theirs and ours):
            continue
        ratio = ours.away_s / theirs.away_s
        verdict = f"<= {TARGET:g}: {'reached' if ratio <= TARGET else '**missed**'}"
        rows.append([shape, "API away, s", f"{theirs.away_s:.1f}", f"{ours.away_s:.1f}", f"**{ratio:.2f}**", verdict])
        whole = f"**{ours.took_s / theirs.took_s:.2f}**"
        rows.append([shape, "whole time, s", f"{theirs.took_s:.1f}", f"{ours.took_s:.1f}", whole, ""])
        rows.append([shape, "requests that failed", str(theirs.failed), str(ours.failed), "", ""])
    return table(("nodes", "what", "textbook", "orchestrator", "ratio", "to reach"), rows)
