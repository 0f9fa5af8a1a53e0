"""The use case of taking one object out of a snapshot: an API server has it for a moment, and is asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.backup.contents import parse_key
from orchestrator.backup.extracted import NOWHERE, Sought, around, parse
from orchestrator.backup.snapshot import entries
from orchestrator.cluster.manifests import applicable
from orchestrator.errors import BadUsage
from orchestrator.library import proven
from orchestrator.served import API_SERVER, Seat, definitions, moment, seated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestrator.app import App
    from orchestrator.backup.extracted import Around
    from orchestrator.library import Library, Proven

_TAKEN = r"""
kind=$1 namespace=$2 name=$3
take() {
  k --request-timeout=60s get --namespace="$namespace" --show-managed-fields -o json -- "$1" "$name" > object 2> said
}
stored() { sed -n "s#.*$STORED_AS.*#\\3.\\2.\\1#p" said | sed 1q; }
if take "$kind" || { as=$(stored); [ -n "$as" ] && take "$as"; }; then
  head object; body < object
else
  head served; body < kinds
  head said; body < said
fi
head ended
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for.

    Attributes:
        name: A recorded snapshot, or a file.
        sought: The object.
        seat: Where an API server is started.
        whole: As the server has it, and not as it would be applied.
        identities, trailer: As of `drills.Wish`.
    """

    name: str
    sought: Sought
    seat: Seat
    whole: bool = False
    identities: tuple[Path, ...] = ()
    trailer: bool = True


@dataclass(frozen=True, slots=True)
class Extracted:
    """An object, and what whoever applies it should know."""

    manifest: Mapping[str, Any]
    notes: tuple[str, ...]


def extract(app: App, library: Library, wish: Wish, say: Callable[[str], None]) -> Extracted:
    """One object of a snapshot.

    Raises:
        ApiError: The cluster has no such node, or nothing tells where it is.
        BackupError: The snapshot is not whole, or the object in it cannot be read.
        BadUsage: There is no such snapshot, kind or object, or no program to read it.
        HostError: The host could not be worked on.
        Refused: The host, which the API does not tell of, is another cluster's.
    """
    wanted = wish.sought
    say("reading the snapshot")
    with proven(library, wish.name, wish.identities, trailer=wish.trailer) as copy:
        # Nothing is started for what cannot be there.
        known = _around(copy, wanted)
        if not known.there:
            raise _absent(copy, wanted, known)
        place = seated(app, wish.seat, copy, say)
        say(f"starting an API server on it on {place.where}")
        words = (wanted.kind, wanted.namespace or NOWHERE, wanted.name)
        lines = [f"definition {name}" for name in definitions(copy)]
        found = parse(moment(app, copy, place, API_SERVER + _TAKEN, words, lines), wanted, place.where)
        if isinstance(found, Sought):
            raise _absent(copy, found, _around(copy, found))
    if wish.whole:
        return Extracted(found, ())
    clean = applicable(found)
    return Extracted(clean.manifest, clean.notes)


def _around(copy: Proven, wanted: Sought) -> Around:
    return around((parse_key(each.key) for each in entries(copy.path, trailer=copy.trailer)), wanted)


def _absent(copy: Proven, wanted: Sought, known: Around) -> BadUsage:
    return BadUsage(
        f"{copy.where} has no {wanted.text}; {known.text}",
        remedy="name one that there is; all of them, by kind: orchestrator etcd verify SNAPSHOT --deep",
    )
