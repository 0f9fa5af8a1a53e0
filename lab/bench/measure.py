"""One command under measurement: wall time, CPU, peak memory, what it asked of the API server, and who else worked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lab.bench.audit import Request

#: Between two requests of the other client.
PROBE_EVERY_S = 0.05

# Starts the command from a process of a few MiB: Linux counts the memory of the process that it was started from into
# the peak that getrusage(2) gives (`exec_mmap` keeps the old one's), and this one is larger than kubectl.
_SPAWN = """
import json, os, sys, time
said, *argv = sys.argv[1:]
actions = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
actions += [(os.POSIX_SPAWN_OPEN, to, said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) for to in (1, 2)]
began = time.monotonic()
pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=actions)
_, status, usage = os.wait4(pid, 0)
wall_s = time.monotonic() - began
print(json.dumps([wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, os.waitstatus_to_exitcode(status)]))
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one command cost.

    Attributes:
        wall_s: From start to exit.
        cpu_s: User and system time of the process and its children.
        peak_mib: Peak resident memory.
        requests: Verb and resource -> how many.
        refused: Requests answered with 429.
        other_ms: Latencies in milliseconds that another client saw meanwhile, sorted.
        foreign_percent: CPU of the machine that went to processes that have no part in it.
        code: Exit code.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    requests: Mapping[str, int]
    refused: int
    other_ms: tuple[float, ...]
    foreign_percent: float
    code: int

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    def other(self, percent: int) -> float:
        """The latency that `percent` of the other client's requests stayed under, in milliseconds."""
        return percentile(self.other_ms, percent)


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The value of a sorted sequence that `percent` of all stay under; not a number when there is none."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def count(asked: Sequence[Request]) -> dict[str, int]:
    """Requests by verb and resource, the most frequent first."""
    return dict(Counter(f"{each.verb} {each.resource}" for each in asked).most_common())


def measure(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    audit: Callable[[], Sequence[Request]],
    probe: Callable[[], None],
    servers: Sequence[int],
    said: Path,
) -> Run:
    """Run a command and measure it.

    Args:
        argv: The command.
        environ: Its whole environment.
        audit: The requests since the last call.
        probe: One small request of another client; its latency is taken at intervals while the command runs.
        servers: Process ids of the daemons that the command makes work, for telling the machine's other work apart.
        said: The file that what it says is added to.
    """
    audit()
    before = _work(servers)
    latencies: list[float] = []
    over = threading.Event()
    other = threading.Thread(target=probing, args=(probe, latencies, over), daemon=True)
    spawn = [sys.executable, "-I", "-S", "-c", _SPAWN, str(said), *argv]
    with subprocess.Popen(spawn, env=dict(environ), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        other.start()
        report, _ = process.communicate()
    over.set()
    other.join()
    all_s, ours_s, at = (now - then for now, then in zip(_work(servers), before, strict=True))
    wall_s, cpu_s, peak_kib, code = json.loads(report)
    asked = audit()
    return Run(
        wall_s=wall_s,
        cpu_s=cpu_s,
        peak_mib=peak_kib / 1024,
        requests=count(asked),
        refused=sum(each.status == 429 for each in asked),
        other_ms=tuple(sorted(latencies)),
        foreign_percent=max(0.0, 100 * (all_s - ours_s) / (at * (os.cpu_count() or 1))),
        code=code,
    )


def at_rest(probe: Callable[[], None], rest_s: float) -> tuple[float, ...]:
    """Latencies in milliseconds of the other client's requests while nothing is measured, sorted."""
    latencies: list[float] = []
    over = threading.Event()
    ends = threading.Timer(rest_s, over.set)
    ends.start()
    probing(probe, latencies, over)
    return tuple(sorted(latencies))


def probing(probe: Callable[[], None], latencies: list[float], over: threading.Event) -> None:
    """One small request after another, each with its latency in milliseconds, until it is over."""
    while not over.is_set():
        began = time.monotonic()
        probe()
        latencies.append((time.monotonic() - began) * 1000)
        over.wait(PROBE_EVERY_S)


def _work(servers: Sequence[int]) -> tuple[float, float, float]:
    """Seconds that all CPUs have worked, those of them for the measurement, and the clock.

    Source: proc(5): `/proc/stat` counts user, nice, system, idle, iowait, irq, softirq, steal, in ticks.
    """
    tick = os.sysconf("SC_CLK_TCK")
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    here = os.times()
    ours = here.user + here.system + here.children_user + here.children_system + sum(_ticks(servers)) / tick
    return (user + nice + system + irq + softirq + steal) / tick, ours, time.monotonic()


def _ticks(pids: Sequence[int]) -> Iterator[int]:
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        yield int(fields[11]) + int(fields[12])
