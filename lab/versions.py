"""Which versions the lab is made of. Each has its modules pinned, with checksums, under `lab/locks`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Release:
    """A version of Kubernetes, and what its kubeadm starts beside it.

    Source: kubeadm 1.35 to 1.37, `cmd/kubeadm/app/constants`: etcd by minor version, CoreDNS, pause.
    """

    version: str
    etcd: str
    coredns: str
    pause: str


KUBERNETES: Mapping[str, Release] = MappingProxyType(
    {
        "1.35.4": Release("1.35.4", etcd="3.6.6", coredns="1.13.1", pause="3.10.1"),
        "1.36.3": Release("1.36.3", etcd="3.6.8", coredns="1.14.2", pause="3.10.2"),
        "1.37.2": Release("1.37.2", etcd="3.7.0", coredns="1.14.6", pause="3.10.2"),
    }
)
KIND = "0.33.0"
KWOK = "0.7.0"
VERSITYGW = "1.8.0"
AZURITE = "3.37.0"
OLD_ETCD = "3.5.1"

#: What is built, and what nodes are offered, unless somebody asks for more: each version takes minutes to build.
USUAL = ("1.36.3", "1.37.2")
DEFAULT = "1.36.3"
API_TIER = "1.37.2"
