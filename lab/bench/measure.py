"""One command under measurement: wall time, CPU, peak memory, and what it asked of the API server."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


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
        code: Exit code.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    requests: Mapping[str, int]
    refused: int
    other_ms: tuple[float, ...]
    code: int

    @property
    def total(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    def other(self, percent: int) -> float:
        """The latency that `percent` of the other client's requests stayed under, in milliseconds."""
        if not self.other_ms:
            return float("nan")
        return self.other_ms[min(len(self.other_ms) - 1, len(self.other_ms) * percent // 100)]


def measure(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    audit: Callable[[], Sequence[tuple[str, str, int]]],
    probe: Callable[[], None],
) -> Run:
    """Run a command and measure it.

    Args:
        argv: The command.
        environ: Its whole environment.
        audit: The requests since the last call, as verb, resource and status.
        probe: One small request of another client; its latency is taken every 50 ms while the command runs.
    """
    audit()
    latencies: list[float] = []
    over = threading.Event()
    other = threading.Thread(target=_probe, args=(probe, latencies, over), daemon=True)
    started = time.monotonic()
    with subprocess.Popen(argv, env=dict(environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        other.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    other.join()
    asked = audit()
    return Run(
        wall_s=wall_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
        requests=Counter(f"{verb} {resource}" for verb, resource, _ in asked),
        refused=sum(status == 429 for _, _, status in asked),
        other_ms=tuple(sorted(latencies)),
        code=process.returncode,
    )


def _probe(probe: Callable[[], None], latencies: list[float], over: threading.Event) -> None:
    while not over.is_set():
        began = time.monotonic()
        probe()
        latencies.append((time.monotonic() - began) * 1000)
        over.wait(0.05)
