"""The run lock on a control plane's disk, for runs during which the API server takes no writes, or is away.

A Lease of the cluster is what other runs look at; this one is for those that cannot have it, or cannot keep it: while
etcd has no space, or is replaced.
"""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from orchestrator.engine.events import Event
from orchestrator.engine.lease import LeaseRecord
from orchestrator.errors import ApiConflict, ApiError, ApiNotFound, ApiUnreachable, HostError, Locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine.clock import Clock
    from orchestrator.engine.events import Sink
    from orchestrator.engine.host import Host
    from orchestrator.engine.lease import Lease, LeaseStore

#: For one question, as for one request to an API server.
TIMEOUT_S = 4.0
#: Between two looks while it is watched.
LOOK_S = 1.0
_CONFLICT, _MISSING = 41, 44

# Source: flock(1): whoever has the lock on the file beside may compare and write; it goes with the process.
_SCRIPT = r"""
set -u; umask 077
dir=${4:-/var/lib/orchestrator}; file=$dir/run-lock
mkdir -p -m 700 "$dir" || exit 1
exec 9> "$dir/.run-lock"; flock -w 3 9 || { echo "the lock's file is busy" >&2; exit 75; }
there=; [ ! -f "$file" ] || there=$(sed -n 1p "$file")
case $1 in
  read) [ -z "$there" ] || cat "$file"; exit 0 ;;
  create) [ -z "$there" ] || exit 41 ;;
  *) [ -n "$there" ] || exit 44; [ "$there" = "$2" ] || exit 41 ;;
esac
if [ "$1" = delete ]; then rm -f -- "$file"; exit; fi
printf '%s\n' "$3" > "$file.new" && sync "$file.new" && mv -- "$file.new" "$file"
"""


class HostLeases:
    """The lease in a file; see `engine.lease.LeaseStore`. Nothing is retried here.

    Args:
        host: Whose disk: the same for all who would be in each other's way.
        clock: For the pauses of a watch.
        directory: Where; another one for tests.
    """

    def __init__(self, host: Host, clock: Clock, directory: str = "") -> None:
        self._host = host
        self._clock = clock
        self._directory = directory

    def read(self) -> LeaseRecord | None:
        """The record, or None."""
        _, _, text = self._ask("read", "", "").partition("\n")
        if not text.strip():
            return None
        try:
            return msgspec.json.decode(text, type=LeaseRecord)
        except msgspec.MsgspecError as err:
            raise ApiUnreachable(
                f"{self._host.name}: the run lock cannot be read: {err}", remedy="rm /var/lib/orchestrator/run-lock"
            ) from err

    def create(self, record: LeaseRecord) -> LeaseRecord:
        """The record as stored; ApiConflict when there is one."""
        stored = replace(record, uid=secrets.token_hex(8), resource_version=secrets.token_hex(8))
        self._ask("create", "", _text(stored))
        return stored

    def replace(self, record: LeaseRecord) -> LeaseRecord:
        """The record as stored, if nobody changed it since it was read."""
        stored = replace(record, resource_version=secrets.token_hex(8))
        self._ask("replace", _version(record), _text(stored))
        return stored

    def delete(self, record: LeaseRecord) -> None:
        """Remove the record, if it is still that one."""
        self._ask("delete", _version(record), "")

    def watch(self, since: LeaseRecord, timeout_s: float) -> Iterator[LeaseRecord | None]:
        """Changes of the record for `timeout_s`; None when it was deleted."""
        end, seen = self._clock.now() + timeout_s, since
        while self._clock.now() < end:
            there = self.read()
            if there is None:
                yield None
                return
            if there != seen:
                seen = there
                yield there
            self._clock.sleep(LOOK_S)

    def _ask(self, what: str, version: str, text: str) -> str:
        words = [what, version, text, *([self._directory] if self._directory else [])]
        try:
            done = self._host.run(["sh", "-c", _SCRIPT, "sh", *words], timeout_s=TIMEOUT_S, repeatable=what == "read")
        except HostError as err:
            raise ApiUnreachable(f"cannot {what} the run lock: {err}", remedy=err.remedy) from err
        if done.rc == _CONFLICT:
            raise ApiConflict(f"{self._host.name}: somebody has the run lock", remedy="wait for them")
        if done.rc == _MISSING:
            raise ApiNotFound(f"{self._host.name}: there is no run lock", remedy="start again")
        if done.rc:
            said = done.stderr.decode(errors="replace").strip()[-200:]
            raise ApiUnreachable(f"{self._host.name}: cannot {what} the run lock: {said}", remedy="see its disk")
        return done.stdout.decode(errors="replace")


class Aside:
    """A sink for a lease that is only held as well: that others had it is told, and not that the API is away."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def emit(self, event: Event) -> None:
        """Hand it on, or not."""
        if event.name in ("lease.watched", "lease.taken_over"):
            self._sink.emit(event)


@contextlib.contextmanager
def as_well(store: LeaseStore, lease: Lease, run: str, sink: Sink, *, binding: bool = True) -> Iterator[None]:
    """The cluster's lease held beside the lock on a disk, where an API server answers now: others look at that one.

    It ends nothing when it is lost: the run itself stops the API servers that would renew it.

    Args:
        store: Where it is; asked once, since an API server that is away is not waited for.
        lease: It.
        run: Whose.
        sink: Told when it cannot be had: who looks at it does not see this run.
        binding: Another run that has it is in the way. Not of a way back: the failed run may have it yet.

    Raises:
        Locked: Another run holds the cluster.
    """
    with contextlib.ExitStack() as held:
        try:
            store.read()
            held.enter_context(lease)
        except Locked:
            if binding:
                raise
        except ApiError as err:
            sink.emit(Event("lease.unseen", {"run": run, "why": str(err)}, "warning"))
        yield


def _version(record: LeaseRecord) -> str:
    return f"{record.uid}/{record.resource_version}"


def _text(record: LeaseRecord) -> str:
    return f"{_version(record)}\n{msgspec.json.encode(record).decode()}"
