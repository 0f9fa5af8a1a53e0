"""The use case of a drill: a snapshot restored beside everything, a real etcd started on it, and looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backup import contents, metrics
from orchestrator.backup.drilled import KEYS, Drilled, counted, judged, keyless, with_api_server
from orchestrator.backup.records import Drill
from orchestrator.cluster.frame import sections
from orchestrator.errors import BackupError
from orchestrator.library import Proven, proven
from orchestrator.served import API_SERVER, Seat, definitions, moment, seated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator.app import App
    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.library import Library

#: Prefixes whose keys are counted again by the etcd that was started.
_PREFIXES = 5

_COUNTED = r"""
revision=$1; shift
head status; ask_it endpoint status -w json 2> /dev/null | body
head hash; ask_it endpoint hashkv --rev="$revision" -w json 2> /dev/null | body
count() { ask_it get "$@" --count-only --write-out=fields 2> /dev/null | sed -n 's/^"Count" : //p'; }
head count all; count "" --from-key | body
for prefix in "$@"; do head count "$prefix"; count "$prefix" --prefix | body; done
head ended; clock | body
"""

# How many objects there are of a kind is told with the first of them; then all of them are read, so that each one was
# decrypted and decoded. Pages are looked at no further than that.
# Source: Kubernetes API concepts, "Retrieving large results sets in chunks": `continue`, `remainingItemCount`. Lists of
# built-in kinds begin with their metadata, those of custom resources end with it: seen on 1.36 and 1.37.
_LISTED = r"""
head served; body < kinds
page() { k --request-timeout=300s get --raw "$1" > page 2> said; }
told() {
  { LC_ALL=C sed -n '1s/^{"kind":"[^"]*","apiVersion":"[^"]*","metadata":{\([^{}]*\)}.*/\1/p' page
    tail -c 4096 page | LC_ALL=C sed -n '$s/.*"metadata":{\([^{}]*\)}}$/\1/p'; } | sed 1q > metadata
  next=$(sed -n 's/.*"continue":"\([^"]*\)".*/\1/p' metadata)
}
empty='^{"kind":"[^"]*","apiVersion":"[^"]*","metadata":{[^{}]*},"items":\(\[\]\|null\)}$\|^{"apiVersion":"[^"]*","items":\[\],'
all_of() {
  number=0
  page "$1?limit=1" || return
  told
  more=$(sed -n 's/.*"remainingItemCount":\([0-9]*\).*/\1/p' metadata)
  grep -q "$empty" page || number=$((${more:-0} + 1))
  while [ -n "$next" ]; do page "$1?limit=500&continue=$next" || return; told; done
}
stored() { sed -n "s#.*$STORED_AS.*#\\1/\\2#p" said | sed 1q; }
awk '{ v = g = $(NF - 2); if (!sub("/.*", "", g)) g = ""
  print $1 (g == "" ? "" : "." g), (v ~ "/" ? "/apis/" : "/api/") v "/" $1 }' kinds > paths
while read -r name path; do
  grep -qxF -e "kind $name" input || continue
  if all_of "$path" || { as=$(stored); [ -n "$as" ] && all_of "/apis/$as/${name%%.*}"; }; then
    head read "$name" "$number"
  else
    head unread "$name"; tail -n 2 said | body
  fi
done < paths
head listed; clock | body
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        name: A recorded snapshot, or a file.
        seat: Where it is restored.
        api_server: Start an API server too, and have it read everything.
        identities: What decrypts.
        trailer: False for a copy of `member/snap/db`.
    """

    name: str
    seat: Seat
    api_server: bool = False
    identities: tuple[Path, ...] = ()
    trailer: bool = True


def drill(app: App, library: Library, wish: Wish, say: Callable[[str], None]) -> Drilled:
    """Restore a snapshot into a directory of its own, start etcd on it, compare, and clear all of it away.

    The outcome is put into the snapshot's record at every destination; where that cannot be done is said.

    Raises:
        ApiError: The cluster has no such node, or nothing tells where it is.
        BackupError: The snapshot is not whole, or keys of encryption at rest could not be read.
        BadUsage: There is no such snapshot, or no etcd to start.
        HostError: The host could not be worked on.
        Refused: The host, which the API does not tell of, is another cluster's.
    """
    say("reading the snapshot")
    with proven(library, wish.name, wish.identities, trailer=wish.trailer) as copy:
        place = seated(app, wish.seat, copy, say)
        say(f"restoring it on {place.where}{', and starting an API server on it' if wish.api_server else ''}")
        found = _with_api_server(app, copy, place) if wish.api_server else _alone(app, copy, place)
    if copy.held is None:
        return replace(found, name=wish.name)
    record = copy.held.record
    told = Drill(at=library.now(), ok=not found.wrong, where=found.where, text=found.text)
    for url, err in library.rewrite(record, drill=told)[1]:
        say(f"the record at {url} does not tell of this drill: {err}")
    return replace(found, cluster=record.cluster, name=record.name)


def rehearse(app: App, path: Path, expected: Snapshot, node: str, *, trailer: bool) -> Drilled:
    """A drill of a plain snapshot on a node, which has to go well.

    Raises:
        BackupError: It did not.
    """
    found = _alone(app, Proven(path, str(path), expected, None, trailer=trailer), Seat(node))
    demand(found)
    return found


def _alone(app: App, copy: Proven, place: Seat) -> Drilled:
    """By etcd alone."""
    answer = moment(app, copy, place, _COUNTED, _words(copy.snapshot))
    return judged(copy.path.name, place.node, answer, copy.snapshot, copy.record)


def _with_api_server(app: App, copy: Proven, place: Seat) -> Drilled:
    """By etcd, and by an API server on it, which reads all that there is."""
    kinds = contents.census(copy.path, trailer=copy.trailer).kinds
    lines = [f"kind {name}" for name in counted(kinds)]
    lines += [f"definition {name}" for name in definitions(copy)]
    answer = moment(app, copy, place, _COUNTED + API_SERVER + _LISTED, _words(copy.snapshot), lines)
    found = judged(copy.path.name, place.node, answer, copy.snapshot, copy.record)
    if not found.wrong:
        keyless(sections(answer), place.where)
    return with_api_server(found, answer, kinds)


def _words(expected: Snapshot) -> list[str]:
    """Of `_COUNTED`: the revision at which keys are hashed, then prefixes to count: leases may end meanwhile."""
    largest = sorted(expected.prefixes, key=lambda prefix: -expected.prefixes[prefix])
    return [str(expected.revision), *[f"{name}/" for name in largest if name.startswith("/")][:_PREFIXES]]


def tell(path: Path, found: Drilled, now: float) -> None:
    """Put the outcome into the file of metrics, of the cluster that the snapshot is of.

    Raises:
        StoreError: The file cannot be written.
    """
    if found.cluster:
        metrics.update(path, metrics.Metrics(cluster=found.cluster, drill_at=now, drill_ok=not found.wrong))


def demand(found: Drilled) -> None:
    """Nothing, when it went well.

    Raises:
        BackupError: It did not.
    """
    if found.wrong:
        other = "this snapshot may not restore: take another, and see `orchestrator etcd verify`"
        raise BackupError(
            f"{found.name}: the drill on {found.where} failed: {found.text}",
            remedy=f"what is encrypted at rest was not read: give its keys: {KEYS}" if found.sealed else other,
        )
