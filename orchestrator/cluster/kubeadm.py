"""What kubeadm says on a host: its checks, its certificates, and what it left behind. Pure.

Source of all forms: kubeadm 1.36 and 1.37, seen on real clusters; API group `output.kubeadm.k8s.io/v1alpha3`.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

import msgspec
import yaml

from orchestrator.cluster.versions import Version, parse
from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

#: Source: kubeadm's default for ClusterConfiguration.clusterName.
CLUSTER = "kubernetes"
#: Likewise for etcd.local.dataDir.
DATA = "/var/lib/etcd"
VERSION = ("kubeadm", "version", "-o", "short")
CERTIFICATES = ("kubeadm", "certs", "check-expiration", "-o", "json")
#: Where it keeps copies of what it replaced: manifests, etcd's data, the kubelet's configuration. They accumulate.
BACKUPS = "/etc/kubernetes/tmp"

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_TAGGED = re.compile(r"^\s*\[(ERROR|WARNING) (\w[\w-]*)\]: (.*)$")
_REPLACED = re.compile(
    r'^\[upgrade/staticpods\] Moving new manifest to "([^"]+)" and backing up old manifest to "([^"]+)"'
)
_RECOVERED = "kubeadm has tried to recover everything into the earlier state"


@dataclass(frozen=True, slots=True)
class Complaint:
    """A check that kubeadm's preflight made and that did not pass.

    Attributes:
        check: Its name, as `--ignore-preflight-errors` takes it.
        fatal: It ends the command unless it is ignored by that name.
        text: What kubeadm says.
    """

    check: str
    fatal: bool
    text: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate, or a kubeconfig's, of one control plane.

    Attributes:
        ends: Seconds since the epoch; None where there is none to end.
        authority: It signs others; an upgrade does not renew it.
        external: kubeadm does not have its authority's key, and cannot renew it.
        missing: There is none.
    """

    name: str
    ends: float | None
    authority: bool
    external: bool
    missing: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an upgrade of a control plane came, by kubeadm's own words.

    Attributes:
        replaced: Manifest -> where its old one is kept, in the order in which they were replaced.
        recovered: kubeadm failed, and moved back what it had replaced.
        succeeded: It says so itself. `upgrade node` never does: there the exit code tells.
    """

    replaced: Mapping[str, str]
    recovered: bool
    succeeded: bool


class _Wire(msgspec.Struct):
    """Fields have kubeadm's own names."""


class _WireCertificate(_Wire, rename="camel"):
    name: str
    expiration_date: datetime | None = None
    externally_managed: bool = False
    missing: bool = False


class _WireCertificates(_Wire, rename="camel"):
    certificates: list[_WireCertificate]
    certificate_authorities: list[_WireCertificate]


def parse_version(stdout: str) -> Version:
    """The version of kubeadm itself, out of the answer of `VERSION`.

    Raises:
        FactUnreadable: It is none.
    """
    found = parse(stdout.strip())
    if found is None:
        raise _unreadable("version -o short", f"{stdout[:80]!r} is no version")
    return found


def parse_complaints(output: str) -> tuple[Complaint, ...]:
    """What preflight checks complain about, each once, fatal ones first.

    Args:
        output: stdout and stderr together, in any order: reports with colours go to one, the tags to the other.
    """
    matches = (_TAGGED.match(_COLOUR.sub("", line)) for line in output.splitlines())
    found = dict.fromkeys(Complaint(m[2], m[1] == "ERROR", m[3].strip()) for m in matches if m)
    return tuple(sorted(found, key=lambda c: (not c.fatal, c.check)))


def parse_certificates(stdout: str) -> tuple[Certificate, ...]:
    """Certificates and authorities of a control plane, those that end first at the front.

    Raises:
        FactUnreadable: It is not the answer of `CERTIFICATES`.
    """
    read = _decoded(_WireCertificates, stdout, "certs check-expiration")
    pairs = [(c, False) for c in read.certificates] + [(c, True) for c in read.certificate_authorities]
    found = (
        Certificate(
            c.name,
            c.expiration_date.timestamp() if c.expiration_date else None,
            authority,
            c.externally_managed,
            c.missing,
        )
        for c, authority in pairs
    )
    return tuple(sorted(found, key=lambda c: (math.inf if c.ends is None else c.ends, c.name)))


def parse_progress(output: str) -> Progress:
    """How far `kubeadm upgrade apply` or `upgrade node` came, out of what it printed until now."""
    lines = [_COLOUR.sub("", line) for line in output.splitlines()]
    replaced = {match[1]: match[2] for line in lines if (match := _REPLACED.match(line))}
    return Progress(
        replaced,
        recovered=any(_RECOVERED in line for line in lines),
        succeeded=any(line.startswith("[upgrade] SUCCESS!") for line in lines),
    )


def _decoded(kind: type[T], stdout: str, command: str) -> T:
    try:
        return msgspec.json.decode(stdout.encode(), type=kind)
    except msgspec.MsgspecError as err:
        raise _unreadable(command, str(err)) from err


def _unreadable(command: str, why: str) -> FactUnreadable:
    return FactUnreadable(f"the answer of `kubeadm {command}` cannot be read: {why}", remedy="run it by hand there")


def cluster_name(configuration: str) -> str:
    """The cluster's name in a ClusterConfiguration, kubeadm's default where it has none."""
    try:
        found = yaml.safe_load(configuration)
    except yaml.YAMLError:
        return CLUSTER
    return str(found.get("clusterName") or CLUSTER) if isinstance(found, dict) else CLUSTER


def data_dir(configuration: str) -> str:
    """The data directory of etcd in a ClusterConfiguration, or kubeadm's default; "" without any settings."""
    try:
        found = yaml.safe_load(configuration)
    except yaml.YAMLError:
        return ""
    if not isinstance(found, dict):
        return ""
    etcd = found.get("etcd") or {}
    return "" if "external" in etcd else str((etcd.get("local") or {}).get("dataDir") or DATA)


def with_data_dir(configuration: str, path: str) -> str:
    """A ClusterConfiguration with another data directory of etcd; every other line stays as it is.

    Raises:
        FactUnreadable: It does not name one on a line of its own.
    """
    changed, times = re.subn(r"(?m)^( +dataDir: ).*$", lambda match: match[1] + path, configuration)
    if times != 1 or data_dir(changed) != path:
        raise FactUnreadable(
            f"kubeadm's ClusterConfiguration has {times} lines `dataDir:` where one was expected",
            remedy=f"kubectl -n kube-system edit configmap kubeadm-config: etcd.local.dataDir: {path}; then resume",
        )
    return changed
