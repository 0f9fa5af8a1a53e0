"""Checks of settings before an upgrade: what the new version takes no more, and what its kubelet starts with. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.cluster import removed
from orchestrator.cluster.hostfacts import CONTROL_PLANE
from orchestrator.cluster.situation import CLUSTER, Finding, Severity
from orchestrator.cluster.versions import KUBEADM_UPGRADE, minor, parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestrator.cluster.hostfacts import HostFacts, Manifest
    from orchestrator.cluster.removed import Removed
    from orchestrator.cluster.situation import Situation
    from orchestrator.cluster.versions import Version

KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
#: kubeadm writes it in each upgrade, and takes flags out of it that are gone.
KUBELET_ENV = "/var/lib/kubelet/kubeadm-flags.env"
#: The ConfigMap out of which kubeadm writes `KUBELET_CONFIG` in each upgrade.
KUBELET_MAP = "kubectl edit configmap kubelet-config -n kube-system"
KUBEADM_MAP = "kubectl edit configmap kubeadm-config -n kube-system"
#: From these minors of Kubernetes 1 on. Source: changelogs of 1.35 (#134298) and 1.37 (#139121).
CGROUP_V1_FAILS, CONTAINERD_1_WARNS, CONTAINERD_1_FAILS = (1, 35), (1, 36), (1, 38)

#: What kubeadm gives etcd by itself.
_ETCD_FLAGS = frozenset(
    {
        "name",
        "advertise-client-urls",
        "listen-peer-urls",
        "initial-advertise-peer-urls",
        "initial-cluster",
        "initial-cluster-state",
        "cert-file",
        "key-file",
        "trusted-ca-file",
        "client-cert-auth",
        "peer-cert-file",
        "peer-key-file",
        "peer-trusted-ca-file",
        "peer-client-cert-auth",
        "snapshot-count",
        "feature-gates",
        "watch-progress-notify-interval",
        "experimental-initial-corrupt-check",
        "experimental-watch-progress-notify-interval",
    }
)
_FLAG = re.compile(r"(?<![\w-])--[a-zA-Z][\w-]*(?:=[^\s\"']*)?")
#: A component's section of ClusterConfiguration.
_SECTIONS = {
    "apiServer": "kube-apiserver",
    "controllerManager": "kube-controller-manager",
    "scheduler": "kube-scheduler",
}


# ---- flags and feature gates ------------------------------------------------------------------------------------


def kubelets(situation: Situation) -> Iterator[Finding]:
    """Flags and feature gates of kubelets that the target does not know: it would not start."""
    target = situation.target
    if target is None:
        return
    for host in situation.touched:
        places = _places(host)
        for found in removed.flags(places, target):
            where = places[found.name]
            if found.name in removed.CLEANED and where == [KUBELET_ENV]:
                continue  # kubeadm takes it out itself
            remedy = f"take {found.name} out of {' and '.join(where)} on {host.node}"
            yield _gone("RemovedFlags", host.node, "the kubelet's flag", found, remedy)
        config = _config(host)
        if config is None:
            text = f"{KUBELET_CONFIG} cannot be read as YAML: what it has that is gone is not known"
            yield Finding("KubeletConfig", Severity.ERROR, host.node, text, f"see {KUBELET_CONFIG} on {host.node}")
        gates = dict.fromkeys([*((config or {}).get("featureGates") or {}), *_gates(host.arguments)])
        for found in removed.gates(gates, target):
            remedy = f"take {found.name} out of {KUBELET_CONFIG} on {host.node}, and out of its source: {KUBELET_MAP}"
            yield _gone("RemovedFeatureGates", host.node, "the kubelet's feature gate", found, remedy)


def components(situation: Situation) -> Iterator[Finding]:
    """The same of control planes' components: in kubeadm's configuration, and in manifests beside it."""
    target = situation.target
    if target is None:
        return
    configuration = _mapping(situation.configuration) or {}
    if not configuration:
        text = "kubeadm's ClusterConfiguration is not there, or cannot be read: without it kubeadm upgrades nothing"
        where = "see it: kubectl get configmap kubeadm-config -n kube-system -o yaml; kubeadm init phase upload-config"
        yield Finding("ClusterConfiguration", Severity.ERROR, CLUSTER, text, where)
    remedy = f"take {{}} out of ClusterConfiguration: {KUBEADM_MAP}"
    for found in removed.kubeadm_gates(configuration.get("featureGates") or {}, target):
        yield _gone("RemovedFeatureGates", CLUSTER, "kubeadm's feature gate", found, remedy.format(found.name))
    told: set[tuple[str, str]] = set()
    for section, component in _SECTIONS.items():
        arguments = _extra((configuration.get(section) or {}).get("extraArgs"))
        for check, what, found in _of_component(component, arguments, target):
            told.add((component, found.name))
            yield _gone(check, CLUSTER, what, found, remedy.format(found.name))
    for host in situation.touched:
        for component in CONTROL_PLANE:
            arguments = _command(host.manifests.get(component))
            for check, what, found in _of_component(component, arguments, target):
                if (component, found.name) not in told:
                    where = f"take {found.name} out of /etc/kubernetes/manifests/{component}.yaml on {host.node}"
                    yield _gone(check, host.node, what, found, where)


def _of_component(component: str, arguments: list[str], target: Version) -> Iterator[tuple[str, str, Removed]]:
    for found in removed.flags(arguments, target, component):
        yield "RemovedFlags", f"the flag of {component}", found
    for found in removed.gates(_gates(arguments), target):
        yield "RemovedFeatureGates", f"the feature gate of {component}", found


def _gone(check: str, where: str, what: str, found: Removed, remedy: str) -> Finding:
    text = f"{what} {found.name} is gone since {found.since}: with it, that does not start"
    return Finding(check, Severity.ERROR, where, text, remedy)


def _places(host: HostFacts) -> Mapping[str, list[str]]:
    """Flag of the kubelet -> where it stands: files, or else what systemd starts it with."""
    places: dict[str, list[str]] = {}
    for path, text in sorted(host.files.items()):
        live = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        for match in _FLAG.findall(live) if path != KUBELET_CONFIG else ():
            places.setdefault(_name(match), []).append(path)
    for argument in host.arguments:
        if argument.startswith("--"):
            places.setdefault(_name(argument), ["what `systemctl cat kubelet` shows"])
    return places


def _name(argument: str) -> str:
    return argument.partition("=")[0].replace("_", "-")


def _gates(arguments: Iterable[str]) -> tuple[str, ...]:
    """Names of `--feature-gates=A=true,B=false`."""
    values = [a.partition("=")[2] for a in arguments if _name(a) == "--feature-gates"]
    return tuple(pair.partition("=")[0].strip() for value in values for pair in value.split(",") if pair)


def _command(manifest: Manifest | None) -> list[str]:
    """A static pod's flags, one on a line as kubeadm writes them."""
    text = manifest.text if manifest else ""
    return re.findall(r"^\s*- [\"']?(--[^\s\"']+)", text, re.MULTILINE)


def _extra(arguments: Any) -> list[str]:
    """Flags of an `extraArgs`.

    Source: kubeadm.k8s.io/v1beta3 has a mapping there, v1beta4 a list of names and values.
    """
    if isinstance(arguments, dict):
        return [f"--{name}={value}" for name, value in arguments.items()]
    return [f"--{a.get('name')}={a.get('value')}" for a in arguments or () if isinstance(a, dict)]


def _config(host: HostFacts) -> Mapping[str, Any] | None:
    """The kubelet's configuration, empty without one; None where it is no YAML."""
    return _mapping(host.files.get(KUBELET_CONFIG, ""))


def _mapping(text: str) -> Mapping[str, Any] | None:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return found if isinstance(found, dict) else None if found else {}


# ---- etcd's manifest --------------------------------------------------------------------------------------------


def etcd(situation: Situation) -> Iterator[Finding]:
    """Flags that etcd takes no more, and those of its manifest that were set by hand.

    kubeadm writes the manifest anew, and its own diff leaves it out.

    Source: kubeadm 1.31 to 1.37, `getEtcdCommand`: its own flags, and those of ClusterConfiguration's extraArgs.
    """
    local = ((_mapping(situation.configuration) or {}).get("etcd") or {}).get("local") or {}
    extra = dict.fromkeys(_extra(local.get("extraArgs")))
    # Of the flags in the manifest only these stay.
    for found in removed.flags(extra, situation.target, "etcd") if situation.target else ():
        remedy = f"take {found.name} out of ClusterConfiguration: {KUBEADM_MAP}"
        yield _gone("RemovedFlags", CLUSTER, "the flag of etcd", found, remedy)
    given = {_name(argument) for argument in extra}
    for host in situation.touched if situation.hops else ():
        arguments = _command(host.manifests.get("etcd"))
        values = {_name(a): a.partition("=")[2] for a in arguments}
        own = _etcd_values(values, str(local.get("dataDir") or "/var/lib/etcd"))
        edited = [a for a in arguments if a not in extra and (_name(a) in given or not _own(a, own))]
        if edited:
            text = f"etcd.yaml was edited by hand: kubeadm, which writes it anew, does not know {', '.join(edited)}"
            remedy = (
                f"put them into etcd.local.extraArgs of ClusterConfiguration: {KUBEADM_MAP}; or accept that they are "
                "lost: --accept EditedManifests"
            )
            yield Finding("EditedManifests", Severity.ERROR, host.node, text, remedy, "\n".join(edited))


def _own(argument: str, values: Mapping[str, tuple[str, ...]]) -> bool:
    name, _, value = argument.partition("=")
    return value in values[name] if name in values else name.removeprefix("--") in _ETCD_FLAGS


def _etcd_values(values: Mapping[str, str], data: str) -> Mapping[str, tuple[str, ...]]:
    """What kubeadm sets where that is the same in all clusters, and matters or is often changed."""
    client = values.get("--advertise-client-urls", "")
    local = ("127.0.0.1", "[::1]")
    return {
        "--data-dir": (data,),
        "--listen-client-urls": tuple(f"https://{host}:2379,{client}" for host in local),
        "--listen-metrics-urls": tuple(f"http://{host}:2381" for host in local),
    }


# ---- API versions -----------------------------------------------------------------------------------------------


def apis(situation: Situation) -> Iterator[Finding]:
    """API versions that clients asked for since the API server started, and that are on their way out.

    Source: the API server's metric `apiserver_requested_deprecated_apis`. It does not tell who asked.
    """
    target = situation.target
    if target is None:
        return
    yield from _unread(situation)
    yield from _written(situation, target)
    for each in situation.deprecated or ():
        name, _, release = each.rpartition("@")
        name = name.removeprefix("/")
        gone = removed.apis([name], target)
        since = gone[0].since if gone else release
        instead = f"use {gone[0].instead}" if gone and gone[0].instead else "use the version that replaces it"
        remedy = f'{instead}; audit log lines with "k8s.io/deprecated":"true" tell who asks'
        by = parse(since)
        if by is None:
            text = f"clients ask for {name}, which is deprecated; no release is named that removes it"
            yield Finding("DeprecatedApis", Severity.NOTE, CLUSTER, text, remedy)
        elif by.line <= target.line:
            text = f"clients ask for {name}, which {since} does not serve any more"
            yield Finding("RemovedApis", Severity.ERROR, CLUSTER, text, remedy)
        else:
            text = f"clients ask for {name}, which {since} will not serve; {minor(target)} still does"
            yield Finding("DeprecatedApis", Severity.WARNING, CLUSTER, text, remedy)


def _unread(situation: Situation) -> Iterator[Finding]:
    hidden = {
        "which API versions clients ask for (/metrics of the API server)": situation.deprecated,
        "through which API versions objects were written (a list of them)": situation.written,
    }
    for what, known in hidden.items():
        if known is None:
            text = f"this user may not read {what}: what uses versions that go is not known"
            yield Finding("ApisUnread", Severity.NOTE, CLUSTER, text, "docs/rbac.md has the permission")


def _written(situation: Situation, target: Version) -> Iterator[Finding]:
    """Objects stay as they are, and are served in other versions: who wrote them will write again."""
    for each in situation.written or ():
        for gone in removed.apis([each.api], target):
            text = (
                f"{each.manager or 'somebody'} wrote {each.count} objects as {each.api}, which {gone.since} does not "
                f"serve any more: {each.example}{' and others' if each.count > 1 else ''}"
            )
            remedy = f"have its manifests use {gone.instead or 'a version that is served'} before"
            yield Finding("WrittenInRemovedApis", Severity.WARNING, CLUSTER, text, remedy)


# ---- what the kubelet starts with -------------------------------------------------------------------------------


def starts(situation: Situation) -> Iterator[Finding]:
    """Swap, cgroups and the container runtime: what the new kubelet refuses to start with, or soon will."""
    target = situation.target
    if target is None:
        return
    runtimes = {node.name: node.container_runtime for node in situation.nodes}
    for host in situation.touched:
        if host.swap and not _off(host, "failSwapOn", "--fail-swap-on"):
            remedy = f"swapoff -a, and take it out of /etc/fstab; or failSwapOn: false, by {KUBELET_MAP}"
            text = "swap is on, and the kubelet is not told to bear it: it does not start"
            yield Finding("SwapOn", Severity.ERROR, host.node, text, remedy)
        runtime = runtimes.get(host.node, "")
        if host.control_plane and runtime and not runtime.startswith("containerd://"):
            text = f"its container runtime is {runtime}: images can be fetched into containerd only"
            yield Finding("Runtime", Severity.FORBIDDEN, host.node, text, f"upgrade it by hand: {KUBEADM_UPGRADE}")
        yield from _cgroup(host, target)
        yield from _containerd(host.node, runtimes.get(host.node, ""), target)


def _off(host: HostFacts, key: str, flag: str) -> bool:
    """Whether a setting that is on by itself is off, by the kubelet's flag or else its configuration."""
    given = [a.partition("=")[2] for a in host.arguments if _name(a) == flag]
    return given[-1].lower() in ("false", "f", "0") if given else (_config(host) or {}).get(key) is False


def _cgroup(host: HostFacts, target: Version) -> Iterator[Finding]:
    if host.cgroup != "v1":
        return
    remedy = "boot it with systemd.unified_cgroup_hierarchy=1, on a system that has cgroup v2"
    if target.line < CGROUP_V1_FAILS or _off(host, "failCgroupV1", "--fail-cgroupv1"):
        text = "it runs on cgroup v1, which Kubernetes keeps for some time only"
        yield Finding("CgroupV1", Severity.WARNING, host.node, text, remedy)
        return
    text = "it runs on cgroup v1, on which the kubelet of 1.35 and later does not start unless it is told to"
    remedy = f"{remedy}; until then failCgroupV1: false, by {KUBELET_MAP}"
    yield Finding("CgroupV1", Severity.ERROR, host.node, text, remedy)


def _containerd(node: str, runtime: str, target: Version) -> Iterator[Finding]:
    if not runtime.startswith("containerd://1.") or target.line < CONTAINERD_1_WARNS:
        return
    fails = target.line >= CONTAINERD_1_FAILS
    said = "does not work with it" if fails else "still works with it, 1.38 does not"
    text = f"its container runtime is {runtime}: Kubernetes {minor(target)} {said}"
    remedy = "upgrade containerd to 2.x: apt-get install containerd.io, or its release from github.com/containerd"
    severity = Severity.ERROR if fails else Severity.WARNING
    yield Finding("Containerd", severity, node, text, remedy)
