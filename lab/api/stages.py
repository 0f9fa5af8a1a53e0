"""What the pretended kubelets do, out of kwok's published package, with two knobs of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from lab import gobuild, versions

if TYPE_CHECKING:
    from pathlib import Path

#: A pod with this annotation takes as long to go as it says, such as `10s`; others go at once.
GOES_AFTER = "lab.kube-orchestrator.io/goes-after"
#: A pod with this annotation never becomes ready.
NEVER_READY = "lab.kube-orchestrator.io/never-ready"

_PODS = "kustomize/stage/pod/fast"
_FILES = (
    f"{_PODS}/pod-ready.yaml",
    f"{_PODS}/pod-complete.yaml",
    f"{_PODS}/pod-delete.yaml",
    "kustomize/stage/node/fast/node-initialize.yaml",
    "kustomize/stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
)
#: Stages of pods that are played at once. Its default of 4 would make kwok, not the client, the limit of a drain.
_PARALLEL = 32


def write(path: Path) -> None:
    """Write kwok's configuration.

    Source: kwok 0.7, `Stage`: `delay.durationFrom` takes a Go duration out of the object, and falls back on
    `durationMilliseconds`.
    """
    module = gobuild.module_files("sigs.k8s.io/kwok", versions.KWOK)
    documents = [_options(), *(yaml.safe_load((module / name).read_text()) for name in _FILES)]
    for document in documents:
        _adapt(document)
    path.write_text(yaml.safe_dump_all(documents))


def _options() -> dict[str, Any]:
    options = {"podPlayStageParallelism": _PARALLEL}
    return {"apiVersion": "config.kwok.x-k8s.io/v1alpha1", "kind": "KwokConfiguration", "options": options}


def _adapt(document: dict[str, Any]) -> None:
    name = document.get("metadata", {}).get("name")
    if name == "pod-ready":
        absent = {"key": f'.metadata.annotations["{NEVER_READY}"]', "operator": "DoesNotExist"}
        document["spec"]["selector"]["matchExpressions"].append(absent)
    if name == "pod-delete":
        where = {"expressionFrom": f'.metadata.annotations["{GOES_AFTER}"]'}
        document["spec"]["delay"] = {"durationMilliseconds": 0, "durationFrom": where}
