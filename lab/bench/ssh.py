"""One command on many hosts over SSH, a new connection each, beside ansible's raw module, on one sshd on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from lab import cache, progress, sshd
from lab.bench.report import PAGE
from lab.errors import LabError
from lab.processes import TIED_TO_US, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ANSIBLE = "ansible-core==2.19.14"
HOSTS = 200
#: How many are worked on at once, by both.
FORKS = 32
ROUNDS = 3
#: Wall time as a part of ansible's, to be reached.
WALL = 0.7
COMMAND = ("uname", "-r")
PATIENCE_S = 600

OURS = "orchestrator"
DEFAULTS = "ansible"
#: A connection that is not kept costs ansible less when each host is reached only once.
UNKEPT = "ansible, ControlMaster=no"

_CLIENT = f"""
import sys
from pathlib import Path
from orchestrator.engine.clock import SystemClock
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.locate import BySsh
from orchestrator.hosts.pool import Pool, each
from orchestrator.hosts.secrets import Secrets

places = [BySsh(f"h{{n}}", "") for n in range(int(sys.argv[2]))]
with Pool(SshConfig(Path(sys.argv[1]), None), Secrets(), SystemClock(), patience_s=10.0) as pool:
    done = each(places, lambda p: pool.host(p).run({COMMAND!r}, timeout_s=60, sudo=False), at_once={FORKS})
for outcome in done:
    print(outcome.item.alias, outcome.value.text if outcome.value else outcome.error)
"""


@dataclass(frozen=True, slots=True)
class Taken:
    """One run over all hosts."""

    wall_s: float
    cpu_s: float


def measure(directory: Path, *, hosts: int = HOSTS, rounds: int = ROUNDS) -> dict[str, list[Taken]]:
    """What was run -> its runs, in turn, after one that does not count."""
    taken: dict[str, list[Taken]] = {OURS: [], DEFAULTS: [], UNKEPT: []}
    packages = ansible()
    directory.mkdir(parents=True, exist_ok=True)
    with sshd.running(directory / "sshd") as server:
        known = directory / "known_hosts"
        known.write_text(server.known_hosts)
        config = directory / "config"
        config.write_text(server.ssh_config(known))
        inventory = directory / "inventory"
        inventory.write_text("".join(f"h{n}\n" for n in range(hosts)))
        for number in range(rounds + 1):
            for name, runs in taken.items():
                argv, env = _case(name, directory, config, inventory, packages, hosts, number)
                with progress.step(f"{name}, {hosts} hosts"):
                    one = _timed(argv, env, hosts)
                server.cut()  # connections that were kept
                if number:
                    runs.append(one)
    return taken


def ansible() -> Path:
    """A directory with ansible and what it needs, for PYTHONPATH."""
    return cache.artifact("ansible", [ANSIBLE], _install)


def _install(out: Path) -> None:
    run([sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--target", str(out), ANSIBLE])


def _case(
    name: str, directory: Path, config: Path, inventory: Path, packages: Path, hosts: int, number: int
) -> tuple[Sequence[str], Mapping[str, str]]:
    env = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    if name == OURS:
        root = Path(__file__).parents[2]
        return (sys.executable, "-c", _CLIENT, str(config), str(hosts)), {**env, "PYTHONPATH": str(root)}
    # Sockets of kept connections lie in a directory of each run, with a path that is short enough for them.
    sockets = Path(f"/tmp/bench-{os.getpid()}-{number}")  # noqa: S108
    env |= {
        "PYTHONPATH": str(packages),
        "ANSIBLE_HOME": str(directory / "ansible"),
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(sockets),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORKS": str(FORKS),
        "ANSIBLE_PYTHON_INTERPRETER": "none",
        "ANSIBLE_SSH_COMMON_ARGS": f"-F {config}",
    }
    if name == UNKEPT:
        env["ANSIBLE_SSH_ARGS"] = "-o ControlMaster=no"
    words = ("all", "-i", str(inventory), "-m", "raw", "-a", " ".join(COMMAND))
    return (sys.executable, "-m", "ansible", "adhoc", *words), env


def _timed(argv: Sequence[str], env: Mapping[str, str], hosts: int) -> Taken:
    """One run; the processor's time is that of all its processes, of the server's none."""
    before, began = os.times(), time.monotonic()
    done = subprocess.run(
        [*TIED_TO_US, *argv], env=dict(env), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    wall_s, after = time.monotonic() - began, os.times()
    release = os.uname().release
    answered = len(re.findall(rf"^(?:h\d+ )?{re.escape(release)}$", done.stdout, re.MULTILINE))
    if done.returncode or answered != hosts:
        raise LabError(
            f"`{' '.join(argv[-7:])}`: {answered} of {hosts} hosts answered: {(done.stdout + done.stderr)[-512:]}",
            remedy="run it by hand; the machine may be overloaded",
        )
    return Taken(wall_s, after.children_user + after.children_system - before.children_user - before.children_system)


def text(taken: Mapping[str, Sequence[Taken]], hosts: int = HOSTS) -> str:
    """The table: medians, and ours as a part of the others'."""
    walls, cpus = (
        {name: median(getattr(one, what) for one in runs) for name, runs in taken.items()}
        for what in ("wall_s", "cpu_s")
    )
    lines = [
        f"| {hosts} hosts, {FORKS} at once | runs | wall s | ours as a part of it | CPU s | ours as a part of it |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in taken.items():
        wall, cpu = (f"**{f[OURS] / f[name]:.2f}**" if name != OURS else "" for f in (walls, cpus))
        lines.append(f"| {name} | {len(runs)} | {walls[name]:.2f} | {wall} | {cpus[name]:.2f} | {cpu} |")
    ratio = walls[OURS] / walls[DEFAULTS]
    verdict = "reached" if ratio <= WALL else "**missed**"
    return "\n".join([*lines, "", f"To reach: <= {WALL:g} of ansible's wall time; measured {ratio:.2f}: {verdict}."])


def write(table: str, page: Path = PAGE) -> None:
    """Put the table into the page, between `<!-- ssh -->` and `<!-- end -->`.

    Raises:
        LabError: The page has no place for it.
    """
    content, found = re.subn(
        r"(<!-- ssh -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}\n{table}\n\n{m[2]}", page.read_text(), flags=re.DOTALL
    )
    if not found:
        raise LabError(f"{page.name} has no place for `ssh`", remedy="add <!-- ssh --> and <!-- end -->")
    page.write_text(content)
