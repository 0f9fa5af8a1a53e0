"""`python -m lab bench backup`: a backup of a large etcd: what other clients feel of it, and its copy beside scp's."""

from __future__ import annotations

import http.client
import json
import os
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from subprocess import Popen
from typing import TYPE_CHECKING

from lab import host, progress, ssh
from lab.bench.measure import Run, at_rest, measure, percentile
from lab.bench.report import PAGE, put
from lab.bench.upgrades import new_cluster
from lab.errors import LabError
from lab.processes import run
from lab.state import Shape

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lab.upgrades.access import Access, Api

NAME = "bench"
ROUNDS = 3
REST_S = 30.0
FETCH_S = 600.0
#: p99 of another client during a backup, as a multiple of that before; our copy's throughput as a part of scp's.
LATENCY, THROUGHPUT = 1.5, 0.8
OURS, SCP = "orchestrator", "scp"
MEMORY = "/dev/shm"  # noqa: S108  a directory for each run
#: From the control plane to everybody else; as `tc` takes it.
LINK = "1gbit"

# Values of 1 MiB that hardly compress, below the limit of one request to etcd (1.5 MiB).
_FILL = r"""
tool=/proc/$(pidof etcd)/root/usr/local/bin/etcdctl pki=/etc/kubernetes/pki/etcd
export ETCDCTL_CACERT=$pki/ca.crt ETCDCTL_CERT=$pki/server.crt ETCDCTL_KEY=$pki/server.key
for number in $(seq %(count)d); do
  head -c 786432 /dev/urandom | base64 -w 0 | "$tool" put "load/$number" > /dev/null
done
"""
# The operator's SSH goes through a link; other clients of the API have ways of their own.
_LINK = """
tc qdisc replace dev eth0 root handle 1: htb default 10
tc class replace dev eth0 parent 1: classid 1:10 htb rate 20gbit burst 1mb
tc class replace dev eth0 parent 1: classid 1:20 htb rate %s burst 1mb
tc filter replace dev eth0 parent 1: protocol ip prio 1 \\
  u32 match ip protocol 6 0xff match ip sport 22 0xffff flowid 1:20
"""
_FETCH = f"""
import sys
from pathlib import Path
from orchestrator.engine.clock import SystemClock
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.locate import BySsh
from orchestrator.hosts.pool import Pool
from orchestrator.hosts.secrets import Secrets

config, name, there, here = sys.argv[1:]
with Pool(SshConfig(Path(config), None), Secrets(), SystemClock(), patience_s=10.0) as pool:
    pool.host(BySsh(name, "")).fetch(there, Path(here), timeout_s={FETCH_S}, compared=False)
"""
# As much of a processor as the command took, in slices, with nothing to do with the cluster.
_BUSY = """
import sys, time
share, slice_s = float(sys.argv[1]), 0.01
while True:
    until = time.thread_time() + share * slice_s
    while time.thread_time() < until:
        pass
    time.sleep((1 - share) * slice_s)
"""
# The command is on a machine of its own elsewhere: here it has what the cluster leaves of the processors.
_LEFT_OVER = ("chrt", "--idle", "0")


@dataclass(frozen=True, slots=True)
class Measured:
    """A backup, and copies of its file.

    Attributes:
        size_bytes: Of the database.
        before_ms: Latencies that another client saw at rest before each backup, sorted.
        beside_ms: The same while a process without any part in it took as much of a processor as the backup's command.
        backups: Each with the latencies meanwhile.
        copies: What copied -> seconds, each in turn.
    """

    size_bytes: int
    before_ms: tuple[tuple[float, ...], ...]
    beside_ms: tuple[tuple[float, ...], ...]
    backups: tuple[Run, ...]
    copies: Mapping[str, Sequence[float]]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `backup` to the command line of the benchmarks."""
    backup = commands.add_parser(
        "backup", help="a backup of a large etcd: others' latencies, and its copy beside scp's"
    )
    backup.add_argument("--megabytes", type=int, default=1000, metavar="N", help="of values in it (default: 1000)")
    backup.add_argument("--write", action="store_true", help="put the table into docs/performance.md")
    backup.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    host.check_machine()
    found = _measured(args.megabytes)
    rounds = zip(found.before_ms, found.beside_ms, found.backups, strict=True)
    for number, (before, beside, backup) in enumerate(rounds, start=1):
        rest, busy, during = (percentile(each, 99) for each in (before, beside, backup.other_ms))
        told = f"{busy:.1f} ms beside as busy a process, {during:.1f} ms during {backup.wall_s:.1f} s"
        print(f"round {number}: p99 {rest:.1f} ms at rest, {told}")
    table = text(found)
    print(table)
    if args.write:
        PAGE.write_text(put(PAGE.read_text(), "backup", table, page=PAGE))
    return 0


def _measured(megabytes: int) -> Measured:
    with new_cluster(NAME, Shape(1, 0)) as access:
        plane = access.control_planes()[0].name
        with progress.step(f"filling etcd with {megabytes} MB"):
            access.ssh(plane, _FILL % {"count": max(1, megabytes * 1_000_000 // 1_048_576)})
        _far(access, plane)
        # etcd's disk is not that of who backs it up.
        with tempfile.TemporaryDirectory(prefix="bench-", dir=MEMORY) as directory:
            return _on(access, plane, Path(directory))


def _far(access: Access, plane: str) -> None:
    """A link as between two machines. On one there is none, and who copies as fast as memory takes all of it."""
    access.ssh(plane, _LINK % LINK)


def _on(access: Access, plane: str, directory: Path) -> Measured:
    probe = _Probe(access.api())
    before, beside, backups = [], [], []
    for number in range(ROUNDS):
        with progress.step("another client, at rest"):
            before.append(at_rest(probe, REST_S))
        with progress.step("orchestrator etcd backup"):
            backups.append(_backup(access, directory / str(number), probe))
        share = min(0.99, backups[-1].cpu_s / backups[-1].wall_s)
        with progress.step(f"another client, beside a process that takes {share:.0%} of a processor"), _busy(share):
            beside.append(at_rest(probe, REST_S))
        (newest,) = (directory / str(number)).glob("to/*.db")
        newest.replace(directory / "newest.db")
    newest = directory / "newest.db"
    copies: dict[str, list[float]] = {OURS: [], SCP: []}
    there = "/var/tmp/bench.db"  # noqa: S108  on a host of the lab's
    sent = ["scp", "-q", "-F", str(ssh.config(access.cluster)), str(newest), f"{plane}:{there}"]
    run(sent, timeout_s=FETCH_S)
    for number in range(ROUNDS + 1):
        for what, argv in _copies(access, plane, there, directory).items():
            with progress.step(f"copy by {what}"):
                began = time.monotonic()
                run(argv, timeout_s=FETCH_S)
            if number:  # the first one reads the file into memory
                copies[what].append(time.monotonic() - began)
    return Measured(newest.stat().st_size, tuple(before), tuple(beside), tuple(backups), copies)


@contextmanager
def _busy(share: float) -> Iterator[None]:
    with Popen([*_LEFT_OVER, sys.executable, "-I", "-S", "-c", _BUSY, str(share)]) as process:
        try:
            yield
        finally:
            process.kill()


def _copies(access: Access, plane: str, there: str, directory: Path) -> dict[str, list[str]]:
    config = str(ssh.config(access.cluster))
    return {
        OURS: [sys.executable, "-c", _FETCH, config, plane, there, str(directory / "ours.db")],
        SCP: ["scp", "-q", "-F", config, f"{plane}:{there}", str(directory / "theirs.db")],
    }


def _backup(access: Access, home: Path, probe: Callable[[], None]) -> Run:
    (home / ".ssh").mkdir(mode=0o700, parents=True)
    (home / ".ssh/config").write_text(ssh.config(access.cluster).read_text())
    argv = [*_LEFT_OVER, str(Path(sys.executable).parent / OURS), "etcd", "backup", "--ssh", "--no-compress"]
    argv += ["--to", f"{home}/to"]
    argv += ["--kubeconfig", str(access.cluster.kubeconfig), "--context", access.cluster.context]
    environ = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": f"{home}/state"}
    said = home / "said"
    done = measure(argv, environ, audit=lambda: (), probe=probe, servers=(), said=said)
    if done.code:
        raise LabError(f"`{' '.join(argv)}` ended with {done.code}:\n{said.read_text()[-2000:]}", remedy="see above")
    return done


class _Probe:
    """A small request of another client, through a connection that it keeps."""

    def __init__(self, api: Api) -> None:
        self._connection = http.client.HTTPSConnection(api.host, api.port, context=api.tls, timeout=30.0)

    def __call__(self) -> None:
        self._connection.request("GET", "/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
        answer = self._connection.getresponse()
        said = json.loads(answer.read())
        if answer.status != 200:
            raise LabError(f"the API answered {answer.status}: {said.get('message')}", remedy="see its log")


def text(found: Measured) -> str:
    """The table, with what was to be reached."""
    usual_before, _, usual_during = _other(found, 50)
    before, beside, during = _other(found, 99)
    taken = {what: median(seconds) for what, seconds in found.copies.items()}
    peak = max(each.peak_mib for each in found.backups)
    latency, throughput = during / before, taken[SCP] / taken[OURS]
    rows = [
        (f"database, MB, behind a link of {LINK}", f"{found.size_bytes / 1e6:.0f}", ""),
        ("backup, verified, stored and read back, s", f"{median(b.wall_s for b in found.backups):.1f}", ""),
        ("its peak memory, MiB", f"{peak:.0f}", ""),
        ("another client, p50 before / during, ms", _pair(usual_before, usual_during), ""),
        (
            "another client, p99 before / during, ms",
            _pair(before, during),
            _verdict(latency, latency <= LATENCY, LATENCY),
        ),
        (
            "another client, p99 beside a process that is as busy as the command, without a backup / during, ms",
            _pair(beside, during),
            f"{during / beside:.2f}",
        ),
        (
            "copy of that file to here, scp / orchestrator, s",
            f"{taken[SCP]:.2f} / {taken[OURS]:.2f}",
            _verdict(throughput, throughput >= THROUGHPUT, THROUGHPUT),
        ),
    ]
    lines = ["| what | measured | ratio |", "| --- | --- | --- |", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    said = f"{len(found.backups)} runs: medians, and percentiles of all of them together."
    return "\n".join([*lines, "", said])


def _other(found: Measured, percent: int) -> tuple[float, float, float]:
    """What another client waited: at rest, beside a busy process, and during backups, of all rounds together."""
    rounds = (found.before_ms, found.beside_ms, tuple(each.other_ms for each in found.backups))
    at_rest_ms, busy_ms, during_ms = (percentile(sorted(chain.from_iterable(each)), percent) for each in rounds)
    return at_rest_ms, busy_ms, during_ms


def _pair(one: float, other: float) -> str:
    return f"{one:.1f} / {other:.1f}"


def _verdict(ratio: float, reached: bool, wanted: float) -> str:  # noqa: FBT001
    return f"**{ratio:.2f}**, wanted {wanted:g}: {'reached' if reached else '**missed**'}"
