"""An object as a server has it, made what a person could have written: to be applied again. Pure."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: What only the server writes into the metadata of every object. Source: Kubernetes API conventions, "Metadata".
_METADATA = (
    "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation", "managedFields",
    "resourceVersion", "selfLink", "uid",
)  # fmt: skip
#: Annotations that kubectl, the controllers and the scheduler write anew.
_ANNOTATIONS = (
    "deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration",
    "kubernetes.io/service-account.uid", "pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller",
    "volume.kubernetes.io/selected-node",
)  # fmt: skip
#: Labels that the controller of Jobs writes, from the object's uid.
_OF_A_JOB = (
    "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name",
)  # fmt: skip
_TOKEN = "kubernetes.io/service-account-token"  # noqa: S105  a type


@dataclass(frozen=True, slots=True)
class Applicable:
    """An object that can be applied.

    Attributes:
        manifest: What is left of it.
        notes: What whoever applies it should know: texts.
    """

    manifest: Mapping[str, Any]
    notes: tuple[str, ...]


def applicable(stored: Mapping[str, Any]) -> Applicable:
    """An object without what the server, controllers and the scheduler wrote into it.

    What a person may have written stays: finalizers, node ports, the name of a claim's volume. Owners go: the garbage
    collector deletes what has only owners that are not there, and they are told apart by their uid.
    """
    made = copy.deepcopy(dict(stored))
    notes = []
    made.pop("status", None)
    metadata = made.setdefault("metadata", {})
    for name in _METADATA:
        metadata.pop(name, None)
    if owners := metadata.pop("ownerReferences", []):
        names = ", ".join(f"{owner.get('kind')} {owner.get('name')}" for owner in owners)
        notes.append(f"it belonged to {names}, which may make it again; here it belongs to nobody")
    if metadata.get("finalizers"):
        notes.append(f"it has finalizers ({', '.join(metadata['finalizers'])}): whoever serves them has to be there")
    _without(metadata, "annotations", _ANNOTATIONS)
    kind = (str(made.get("apiVersion", "")).partition("/")[0], made.get("kind"))
    if kind in _KINDS:
        notes += _KINDS[kind](made)
    template = _inner(made, "spec", "template", "metadata")
    if "creationTimestamp" in template and template["creationTimestamp"] is None:
        del template["creationTimestamp"]
    return Applicable(made, tuple(notes))


def _without(parent: dict[str, Any], key: str, names: tuple[str, ...]) -> None:
    """Leave entries of a map out, and the map when nothing is left of it."""
    there = parent.get(key)
    if there is None:
        return
    for name in names:
        there.pop(name, None)
    if not there:
        del parent[key]


def _inner(made: dict[str, Any], *path: str) -> dict[str, Any]:
    """A map within; an empty one where there is none."""
    found: Any = made
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _service(made: dict[str, Any]) -> list[str]:
    """Its address is given out by the server; `None`, of a headless one, is meant."""
    spec = _inner(made, "spec")
    address = spec.get("clusterIP")
    if address in (None, "None"):
        return []
    for name in ("clusterIP", "clusterIPs", "healthCheckNodePort"):
        spec.pop(name, None)
    return [f"its address {address} is left out: it gets one when it is applied"] if address else []


def _job(made: dict[str, Any]) -> list[str]:
    """Its selector is made from its uid, and may not be given, unless it is said to be one's own."""
    spec = _inner(made, "spec")
    if not spec.get("manualSelector"):
        spec.pop("selector", None)
        for metadata in (_inner(made, "metadata"), _inner(made, "spec", "template", "metadata")):
            _without(metadata, "labels", _OF_A_JOB)
    return ["it runs anew when it is applied"]


def _pod(made: dict[str, Any]) -> list[str]:
    """The scheduler finds a node for it."""
    _inner(made, "spec").pop("nodeName", None)
    return []


def _claim(made: dict[str, Any]) -> list[str]:
    """The volume that it had stays named: with another one its data would seem to be gone, and nobody would say so."""
    name = _inner(made, "spec").get("volumeName")
    return [f"it wants the volume {name}, with its data; without that line it gets a new one, empty"] if name else []


def _volume(made: dict[str, Any]) -> list[str]:
    """A claim of that name may have it, though it has another uid."""
    for name in ("resourceVersion", "uid"):
        _inner(made, "spec", "claimRef").pop(name, None)
    return []


def _secret(made: dict[str, Any]) -> list[str]:
    """The token of a service account is the server's: it deletes one for another uid, and fills an empty one."""
    if made.get("type") != _TOKEN:
        return []
    made.pop("data", None)
    return ["its token is left out: it gets a new one when it is applied"]


#: Group, or version of the core, and kind -> what is the server's in it.
_KINDS: Mapping[tuple[str, object], Callable[[dict[str, Any]], list[str]]] = {
    ("v1", "Service"): _service,
    ("batch", "Job"): _job,
    ("v1", "Pod"): _pod,
    ("v1", "PersistentVolumeClaim"): _claim,
    ("v1", "PersistentVolume"): _volume,
    ("v1", "Secret"): _secret,
}
