"""One object of a snapshot: whether it can be there, what an API server answered, what is there instead. Pure."""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.backup.drilled import KEYS, failure, keyless, missing
from orchestrator.cluster.frame import sections
from orchestrator.errors import BackupError, BadUsage, FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.backup.contents import Key

#: How many others are named.
_MOST = 5
#: How many names are compared for one that is nearly right.
_COMPARED = 20_000
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,316}")
_NAME = re.compile(r"[^/%\s,]{1,253}")
_NOT_FOUND = re.compile(r'\(NotFound\): (\S+) "([^"]*)" not found')
_NO_KIND = re.compile(r"the server doesn't have a resource type")
#: What stands for a namespace where none was named. Source: no namespace is called so (RFC 1123 labels).
NOWHERE = "-"


@dataclass(frozen=True, slots=True)
class Sought:
    """An object that is looked for.

    Attributes:
        kind: As kubectl takes it: `deployment`, `deploy`, `deployments.apps`, `widgets.example.com`.
        namespace: "" for kinds without.
    """

    kind: str
    namespace: str
    name: str

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.kind} {self.namespace}{'/' if self.namespace else ''}{self.name}"


def sought(kind: str, path: str) -> Sought:
    """What is meant by a kind and `NAMESPACE/NAME` or `NAME`.

    Raises:
        BadUsage: That is nothing.
    """
    namespace, slash, name = path.rpartition("/")
    if not _KIND.fullmatch(kind) or not _NAME.fullmatch(name) or bool(slash) != bool(_NAME.fullmatch(namespace)):
        raise BadUsage(
            f"{kind} {path} names no object",
            remedy="give a kind, and NAMESPACE/NAME, or NAME of a kind without namespaces: deployment shop/web",
        )
    return Sought(kind, namespace, name)


@dataclass(frozen=True, slots=True)
class Around:
    """What a snapshot has that is like an object.

    Attributes:
        there: Something of that namespace and name is in it, of whatever kind.
        same: Objects of that name elsewhere, as `Deployment shop/web`.
        near: Those of that kind and namespace that have nearly that name.
    """

    there: bool
    same: tuple[str, ...]
    near: tuple[str, ...]

    @property
    def text(self) -> str:
        """What is there instead."""
        if self.same or self.near:
            return f"there is {', '.join(dict.fromkeys((*self.near, *self.same)))}"
        return "and nothing of nearly that name"


def around(keys: Iterable[Key], wanted: Sought) -> Around:
    """What there is around an object; of its kind only, where that is one that keys tell."""
    there = False
    same: dict[bool, list[str]] = {True: [], False: []}
    names: dict[bool, dict[str, str]] = {True: {}, False: {}}
    for key in keys:
        fits = is_of(key, wanted.kind)
        if key.name == wanted.name:
            there = there or key.namespace == wanted.namespace
            if len(same[fits]) < _MOST:
                same[fits].append(_shown(key))
        elif key.namespace == wanted.namespace and len(names[fits]) < _COMPARED:
            names[fits].setdefault(key.name, _shown(key))
    known = bool(same[True] or names[True])
    close = difflib.get_close_matches(wanted.name, names[known], _MOST)
    return Around(there, tuple(same[known] or same[False]), tuple(names[known][name] for name in close))


def is_of(key: Key, kind: str) -> bool:
    """An object is of a kind, as far as that tells: not by its short names."""
    first, _, rest = kind.lower().partition(".")
    known = {key.kind.lower(), key.resource, key.kind.lower().partition(".")[0]}
    return first in known and (not rest or rest == key.group or rest.partition(".")[2] == key.group)


def _shown(key: Key) -> str:
    return f"{key.kind} {key.namespace}{'/' if key.namespace else ''}{key.name}"


def parse(answer: str, wanted: Sought, where: str) -> dict[str, Any] | Sought:
    """The object in what a script answered, or what is not there, with its kind as the server calls it.

    Raises:
        BackupError: The snapshot could not be served, or the object not be read.
        BadUsage: There is no such kind, or no program.
        FactUnreadable: It is no object.
    """
    found = sections(answer)
    missing(found, where)
    keyless(found, where)
    if "object" in found:
        return _object(found["object"][0].text, wanted)
    if "failed" in found:
        raise BackupError(f"on {where}: {failure(found['failed'][0])}", remedy="see whether it restores: etcd drill")
    if "said" not in found:
        raise BackupError(f"on {where}: the API server did not come to its end", remedy="extract it again")
    said = " ".join(found["said"][0].text.split())
    if absent := _NOT_FOUND.search(said):
        resource, name = absent.groups()
        its_namespace = resource == "namespaces" and name != wanted.name
        return Sought(wanted.kind if its_namespace else resource, wanted.namespace, wanted.name)
    if _NO_KIND.search(said):
        kinds = [line.split()[0] for line in found["served"][0].text.splitlines()]
        kind = wanted.kind.lower()
        close = [each for each in kinds if each.startswith(kind)][:_MOST] or difflib.get_close_matches(
            kind, kinds, _MOST
        )
        raise BadUsage(
            f"the snapshot's API server knows no kind {wanted.kind!r}",
            remedy=f"one of: {', '.join(close)}"
            if close
            else "what there is: orchestrator etcd verify SNAPSHOT --deep",
        )
    raise BackupError(
        f"{wanted.text} could not be read on {where}: {said[-300:]}",
        remedy=f"where it was encrypted at rest by keys that are not that host's, give them: {KEYS}",
    )


def _object(text: str, wanted: Sought) -> dict[str, Any]:
    """The object, which has to be the one that was asked for.

    Raises:
        BadUsage: Its kind has no namespaces, and one was named.
        FactUnreadable: It is none.
    """
    try:
        found = json.loads(text)
        namespace, name = found["metadata"].get("namespace", ""), found["metadata"]["name"]
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise FactUnreadable(f"{wanted.text} cannot be read: {err}", remedy="extract it again") from err
    if namespace != wanted.namespace:
        raise BadUsage(f"{found['kind']} {name} is in no namespace", remedy=f"name it: {wanted.kind} {name}")
    return dict(found)
