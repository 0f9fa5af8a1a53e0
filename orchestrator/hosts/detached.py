"""Commands that go on when the connection is lost, and are found again: run once, whatever the network does.

On the host each has a directory, `/var/lib/orchestrator/RUN/STEP`, 0700, with these files:

    argv      the command, as a shell would read it
    run       the script that carries it out
    started   process id, its start time and the host's boot, written by `run` itself: whoever makes it first has the
              claim, everybody else goes away
    stdout, stderr
    timed_out there when it was ended for taking too long
    rc        the exit status, whole or not there

It outlives this process, this machine, and a restart of sshd; a reboot of the host ends it, which is told apart from
an end of its own by the boot in `started`.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.engine import retry
from orchestrator.engine.host import STATE, Completed, demand, shown
from orchestrator.errors import CommandTimedOut, CommandVanished, FactUnreadable, HostError, HostUnreachable, Refused
from orchestrator.hosts import commands
from orchestrator.hosts.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.host import Host
    from orchestrator.errors import OrchestratorError

#: A look at a command stays on the host for so long when there is nothing new.
WATCH_S = 10
#: To start, to look, to stop: each is one short command, plus WATCH_S.
ASK_S = 30.0
#: Of each stream, in one look.
PIECE_BYTES = 1 << 20
#: Of standard output, in memory: who wants all of it listens to its lines, or has it go to a file.
KEEP_BYTES = 2 << 20
#: From being asked to end until it is killed, in seconds.
STOP_S = 10

_ANOTHER, _NOT_STARTED, _RUNNING = 73, 75, 76

# ---- on the host ----------------------------------------------------------------------------------------------

# A hard link is made by one of several at most. Source: link(2): EEXIST. The status gets its name when it is on disk.
_RUN = """#!/bin/sh
cd {directory} || exit 1
umask 077
: "${{HOME:=/root}}"; export HOME
echo "$$ $(cut -d' ' -f22 /proc/$$/stat) $(cat /proc/sys/kernel/random/boot_id)" > "started.$$"
ln "started.$$" started 2>/dev/null; claimed=$?
rm -f "started.$$"
[ "$claimed" = 0 ] || exit 0
sync started .
read -r begun _ < /proc/uptime
{command} > stdout 2> stderr < /dev/null
rc=$?
read -r ended _ < /proc/uptime
case $rc in 124 | 137) [ "$((${{ended%.*}} - ${{begun%.*}}))" -lt {limit} ] || : > timed_out ;; esac
echo "$rc" > rc.new
sync rc.new stdout stderr
mv rc.new rc
sync .
"""

# systemd-run(1): --collect forgets a unit that failed, so that its name is free again; the result is in files.
# Type=exec: systemd-run fails when the program cannot be started (systemd 240).
_START = f"""set -eu; umask 077
dir=$1 unit=$2 argv=$3 digest=$4 systemd=$5
mkdir -p -- "$dir"
[ ! -e "$dir/argv" ] || [ "$(cat "$dir/argv")" = "$argv" ] || exit {_ANOTHER}
if [ ! -e "$dir/started" ]; then
  new="$dir/run.$$"
  cat > "$new"
  [ "$(sha256sum < "$new")" = "$digest  -" ] || exit {commands.DAMAGED}
  printf '%s' "$argv" > "$dir/argv.$$"; mv -- "$dir/argv.$$" "$dir/argv"
  mv -- "$new" "$dir/run"
  if [ "$systemd" = yes ] && [ -d /run/systemd/system ] && command -v systemd-run > /dev/null; then
    systemd-run --quiet --collect --unit="$unit" --property=Type=exec --property=TimeoutStopSec={STOP_S} \\
      --description="orchestrator: $unit" /bin/sh "$dir/run" \\
      || systemctl is-active --quiet "$unit" || [ -e "$dir/started" ]
  else
    setsid /bin/sh "$dir/run" < /dev/null > /dev/null 2>&1 &
  fi
  i=0
  while [ ! -e "$dir/started" ] && [ "$i" -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
fi
[ -e "$dir/started" ] || exit {_NOT_STARTED}
"""

# The process of `started` lives when its start time is the same: a process id alone may be somebody else's by now.
# A zombie is not alive, though nobody may ever reap it. Source: proc(5), `stat`; its name is `sh`, without spaces.
# Looked at several times a second while other work goes on there: by what the shell has built in, without processes.
_ALIVE = """alive() {
  read -r pid began boot < "$dir/started" || return 1
  read -r now < /proc/sys/kernel/random/boot_id || return 1
  [ "$boot" = "$now" ] || return 1
  { read -r line < "/proc/$pid/stat"; } 2> /dev/null || return 1
  set -- $line
  [ "${22:-}" = "$began" ] && [ "$3" != Z ]
}
"""
# First line: the state, and how many bytes of each stream follow; all on one stream, for sudo may complain on the
# other. `alive` is asked before `rc`, so an end between the two is not taken for a death.
_LOOK = (
    _ALIVE
    + """dir=$1 out=$2 err=$3 most=$4 turns=$5 i=0
sizes() {
  set -- $(stat -c %s "$dir/stdout" "$dir/stderr" 2> /dev/null)
  [ "$#" = 2 ] || set -- 0 0
  out_bytes=$(($1 - out)) err_bytes=$(($2 - err))
}
while :; do
  if [ ! -e "$dir/started" ]; then echo absent - 0 0; exit 0; fi
  state="vanished -"; if alive; then state="running -"; fi
  if [ -e "$dir/rc" ]; then state="ended $(cat "$dir/rc")"; fi
  if [ -e "$dir/rc" ] && [ -e "$dir/timed_out" ]; then state="late -"; fi
  sizes
  [ "$state" = "running -" ] && [ "$out_bytes" -le 0 ] && [ "$err_bytes" -le 0 ] || break
  [ "$i" -lt "$turns" ] || break
  i=$((i + 1)); sleep 0.1
done
[ "$out_bytes" -le "$most" ] || out_bytes=$most
[ "$err_bytes" -le "$most" ] || err_bytes=$most
echo "$state $out_bytes $err_bytes"
tail -c "+$((out + 1))" "$dir/stdout" 2> /dev/null | head -c "$out_bytes"
tail -c "+$((err + 1))" "$dir/stderr" 2> /dev/null | head -c "$err_bytes"
"""
)
_STOP = (
    _ALIVE
    + f"""dir=$1 unit=$2
[ -e "$dir/started" ] && [ ! -e "$dir/rc" ] && alive || exit 0
if systemctl is-active --quiet "$unit" 2> /dev/null; then systemctl stop "$unit"; exit; fi
tree() {{ for child in $(cat "/proc/$1/task/$1/children" 2> /dev/null); do tree "$child"; done; echo "$1"; }}
all=$(tree "$pid")
kill $all 2> /dev/null
i=0
while alive && [ "$i" -lt {STOP_S * 5} ]; do sleep 0.2; i=$((i + 1)); done
kill -9 $all 2> /dev/null
exit 0
"""
)
_CLEAN = (
    _ALIVE
    + f"""dir=$1
if [ -e "$dir/started" ] && [ ! -e "$dir/rc" ] && alive; then exit {_RUNNING}; fi
rm -rf -- "$dir"
rmdir -- "$(dirname -- "$dir")" 2> /dev/null || true
"""
)


@dataclass(frozen=True, slots=True)
class Unit:
    """What a detached command is known by: one step of one run.

    Attributes:
        run: The run's id.
        step: The step's id.
        root: The directory on the host.
        systemd: Give it to systemd where that runs; else, and elsewhere, a session of its own has to do.
    """

    run: str
    step: str
    root: str = STATE
    systemd: bool = True

    @property
    def directory(self) -> str:
        """Where its files are, on the host."""
        return f"{self.root}/{_plain(self.run)}/{_plain(self.step)}"

    @property
    def name(self) -> str:
        """Of the systemd unit. Source: systemd.unit(5): at most 255 characters."""
        return f"orchestrator-{_plain(self.run)}-{_plain(self.step)}"[:240] + ".service"


def _plain(text: str) -> str:
    """Without what has a meaning in paths or unit names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", text).lstrip(".-") or "_"


def run_detached(
    host: Host,
    argv: Sequence[str],
    *,
    unit: Unit,
    timeout_s: float,
    clock: Clock,
    stdout_to: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    waiting: Callable[[OrchestratorError, float], None] | None = None,
) -> Completed:
    """Run a command to its end, once, over any number of connections; found again when it was started before.

    Args:
        host: Where.
        argv: As for `Host.run`.
        unit: What it is known by. The same unit and command again waits for the one that there is.
        timeout_s: Then it is ended on the host; counted there from its start.
        clock: For pauses between attempts to reach the host.
        stdout_to: As for `Host.run`.
        on_line: As for `Host.run`.
        waiting: Told of each failure to reach the host, and of the pause after it.

    Raises:
        Refused: The unit was started with another command.
        CommandTimedOut: It did not end in time.
        CommandVanished: It is gone and left no result; it is not started again.
        HostUnreachable: The host was away until its time was up; the command may go on there.
    """
    began = clock.now()

    def patiently(work: Callable[[], Completed], deadline: float) -> Completed:
        try:
            return retry.call(retry.HOST_AWAY, work, clock=clock, deadline=deadline, scheduled=waiting)
        except HostUnreachable as err:
            err.add_note(f"`{shown(argv)}` may go on on {host.name}; its files are in {unit.directory} there")
            raise

    patiently(lambda: _start(host, argv, unit, timeout_s), began + timeout_s)
    deadline = clock.now() + timeout_s + commands.KILL_AFTER_S + commands.GRACE_S
    with Output(stdout_to, on_line, KEEP_BYTES) as output:
        rc = _followed(host, unit, output, clock, deadline, patiently)
        return Completed(tuple(argv), rc, output.stdout, output.stderr, clock.now() - began)


def _start(host: Host, argv: Sequence[str], unit: Unit, timeout_s: float) -> Completed:
    words = shlex.join(commands.wrapped(argv, timeout_s=timeout_s))
    place = shlex.quote(unit.directory)
    script = _RUN.format(directory=place, command=words, limit=int(timeout_s)).encode()
    digest = hashlib.sha256(script).hexdigest()
    systemd = "yes" if unit.systemd else "no"
    line = shlex.join(argv)
    done = host.run(
        ["sh", "-c", _START, "sh", unit.directory, unit.name, line, digest, systemd],
        stdin=script,
        timeout_s=ASK_S,
        repeatable=True,
    )
    if done.rc == _ANOTHER:
        raise Refused(
            f"{host.name}: {unit.directory} belongs to another command than `{shown(argv)}`",
            remedy=f"look at {unit.directory}/argv on {host.name}; remove the directory when it is not wanted",
        )
    if done.rc:
        said = done.stderr[-256:].decode(errors="replace").strip()
        raise HostError(
            f"{host.name}: `{shown(argv)}` could not be started there: {said or f'status {done.rc}'}",
            remedy=f"look at {unit.directory} on {host.name}: ls -la; df -h",
        )
    return done


def _followed(
    host: Host,
    unit: Unit,
    output: Output,
    clock: Clock,
    deadline: float,
    patiently: Callable[[Callable[[], Completed], float], Completed],
) -> int:
    """The exit status, when it is there; what the command says meanwhile goes to `output`, each byte once."""
    out = err = 0
    while True:
        looked = patiently(partial(_look, host, unit, out, err), deadline)
        seen = _seen(host, unit, looked.stdout)
        out, err = out + len(seen.out), err + len(seen.err)
        output.out(seen.out)
        output.err(seen.err)
        if PIECE_BYTES in (len(seen.out), len(seen.err)):
            continue
        word = seen.state
        if word == "ended":
            return seen.rc
        if word == "late":
            raise CommandTimedOut(
                f"{host.name}: the command of {unit.directory} did not end in its time, and was ended",
                remedy=f"look at {unit.directory}/stdout and stderr on {host.name}; remove the directory and repeat",
            )
        if word in ("vanished", "absent"):
            raise CommandVanished(
                f"{host.name}: the command of {unit.directory} is gone and left no result:"
                f" {'the host went down, or it was killed' if word == 'vanished' else 'its files were removed'}",
                remedy=f"look on {host.name} how far it came: {unit.directory}/stdout and stderr; then remove that"
                " directory and repeat",
            )
        if clock.now() >= deadline and word == "running":
            raise CommandTimedOut(
                f"{host.name}: the command of {unit.directory} goes on after its time",
                remedy=f"look on {host.name}: systemctl status {unit.name}",
            )


def _look(host: Host, unit: Unit, out: int, err: int, *, wait_s: int = WATCH_S, most: int = PIECE_BYTES) -> Completed:
    argv = ["sh", "-c", _LOOK, "sh", unit.directory, str(out), str(err), str(most), str(wait_s * 10)]
    return demand(host, host.run(argv, timeout_s=ASK_S + wait_s, repeatable=True, private=True))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one look found: `running`, `ended`, `late`, `vanished` or `absent`, and what is new of both streams."""

    state: str
    rc: int
    out: bytes
    err: bytes


def _seen(host: Host, unit: Unit, answer: bytes) -> _Seen:
    head, _, rest = answer.partition(b"\n")
    try:
        state, rc, out_bytes, err_bytes = head.decode().split()
        out, err = int(out_bytes), int(err_bytes)
        if out + err != len(rest):
            raise ValueError(f"{len(rest)} bytes of {out} and {err}")
        return _Seen(state, int(rc) if state == "ended" else -1, rest[:out], rest[out:])
    except ValueError as why:
        raise FactUnreadable(
            f"{host.name}: what it says of {unit.directory} cannot be read: {why}",
            remedy=f"look at the directory on {host.name}",
        ) from why


def state(host: Host, unit: Unit) -> tuple[str, int]:
    """How the command stands: `absent`, `running`, `ended`, `late` or `vanished`, and its exit status when it ended."""
    seen = _seen(host, unit, _look(host, unit, 0, 0, wait_s=0, most=0).stdout)
    return seen.state, seen.rc


def stop(host: Host, unit: Unit) -> None:
    """End the command, with all that it started; nothing when it does not run."""
    argv = ["sh", "-c", _STOP, "sh", unit.directory, unit.name]
    demand(host, host.run(argv, timeout_s=ASK_S + STOP_S, repeatable=True))


def clean(host: Host, unit: Unit) -> None:
    """Remove its files.

    Raises:
        Refused: It runs.
    """
    done = host.run(["sh", "-c", _CLEAN, "sh", unit.directory], timeout_s=ASK_S, repeatable=True)
    if done.rc == _RUNNING:
        raise Refused(f"{host.name}: the command of {unit.directory} runs", remedy="wait for it, or stop it first")
    demand(host, done)
