"""The one object that is read out of a snapshot here, without an API server: what kubeadm keeps in the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.backup.contents import form_of
from orchestrator.backup.mvcc import fields
from orchestrator.backup.snapshot import entries

if TYPE_CHECKING:
    from pathlib import Path

#: Tags of protobuf fields: 1 and 2, each with a content. Source: protobuf's encoding, "Message structure".
_FIRST, _SECOND = 0x0A, 0x12
_KUBEADM = b"/registry/configmaps/kube-system/kubeadm-config"


def kubeadm_configuration(path: Path) -> str:
    """The ClusterConfiguration of kubeadm, as a snapshot has it; "" where it has none, or encrypted it.

    Source: kubeadm, `kubeadm-config`; k8s.io/api, core/v1: the field `data` of a ConfigMap has the number 2.

    Raises:
        SnapshotInvalid: The bucket of keys is damaged.
    """
    found = next((e.value for e in entries(path, prefix=_KUBEADM) if e.key == _KUBEADM), b"")
    try:
        return _string_map(found).get("ClusterConfiguration", "") if form_of(found) == "protobuf" else ""
    except ValueError:
        return ""


def _string_map(value: bytes) -> dict[str, str]:
    """The second field of an object, which maps strings to strings.

    Source: k8s.io/apimachinery, `runtime.Unknown`: an object is its second field, behind `k8s` and a zero byte.
    """
    found = {}
    for tag, start, stop in fields(value, 4, len(value)):
        for inner, at, end in fields(value, start, stop) if tag == _SECOND else ():
            if inner == _SECOND:
                pair = {t: value[a:z].decode() for t, a, z in fields(value, at, end)}
                found[pair.get(_FIRST, "")] = pair.get(_SECOND, "")
    return found
