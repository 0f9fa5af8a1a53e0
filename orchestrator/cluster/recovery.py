"""What a recovery set tells of its cluster, what of it is one node's, and whether a machine is fresh. Pure.

A set is taken on one control plane. Authorities, the key of service accounts, the API server's own files and the shape
of the manifests are every control plane's; certificates, kubeconfigs, names and addresses are one's. The former are
put on each, the latter are made anew, or rewritten.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from posixpath import join
from typing import TYPE_CHECKING

import yaml

from orchestrator.cluster import hostfacts
from orchestrator.cluster.frame import Section, sections
from orchestrator.cluster.versions import Skew, kubelet_skew, parse
from orchestrator.errors import FactUnreadable, Refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from orchestrator.cluster.hostfacts import Manifest

PKI, MANIFESTS = "/etc/kubernetes/pki", "/etc/kubernetes/manifests"
#: Where the set has kubeadm's ConfigMaps, and etcd's programs, beside the files of the host.
CONFIGMAPS, TOOL = "configmaps.yaml", "tools/etcdutl"
#: What kubeadm cannot make anew. Source: kubeadm's documentation, "Manual certificate distribution".
SHARED = tuple(
    f"{PKI}/{name}"
    for name in (
        "ca.crt", "ca.key", "etcd/ca.crt", "etcd/ca.key", "front-proxy-ca.crt", "front-proxy-ca.key", "sa.key",
        "sa.pub",
    )
)  # fmt: skip
#: Keys that may be with somebody else on purpose. Source: kubeadm's documentation, "External CA mode".
_KEYS = frozenset(path for path in SHARED if path.endswith("ca.key"))
#: What is not there where etcd is no static pod of kubeadm's.
_ETCD = frozenset((f"{MANIFESTS}/etcd.yaml", f"{PKI}/etcd/ca.crt", f"{PKI}/etcd/ca.key"))
#: What kubeadm signs for one control plane: made on each anew. Source: `kubeadm init phase certs all`, 1.36.
SIGNED = tuple(
    f"{PKI}/{name}.{end}"
    for name in (
        "apiserver", "apiserver-kubelet-client", "apiserver-etcd-client", "front-proxy-client", "etcd/server",
        "etcd/peer", "etcd/healthcheck-client",
    )
    for end in ("crt", "key")
)  # fmt: skip
#: Of the kubelet: a node's name and address may be in any of them.
KUBELET = (
    "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/instance-config.yaml", "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
)  # fmt: skip

_FILE = re.compile(r"^\s*- \"?--([a-z-]+)=(/[^\s\"]+)", re.MULTILINE)
#: Flags of an API server that does not start, or does not read what is stored, without the file that they name.
_WANTED = re.compile(r"(-config|-config-file|-policy-file|-auth-file|-provider-config)$")
#: What sed(1) does not take as it is, and where a path in YAML or JSON ends or goes on.
_SPECIAL, _PATH_ENDS = re.compile(r"[\\.*\[\]^$#&]"), r"""\([]/"', }]\|$\)"""
_NAMING = re.compile(r"(--(?:name|hostname-override|provider-id)[= ])([^\s\"]+)")
_TWO = re.compile(r"--node-ip[= ][^\s\"]+,")
_MEMBERS = re.compile(r"(--initial-cluster=)([^\s\"]+)")
_ENDPOINT = re.compile(r"container-?runtime-?endpoint[:=]\s*\"?([^\s\"]+)", re.IGNORECASE)
_PROVIDER = re.compile(r"--provider-id[= ]([^\s\"]+)")
_PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@dataclass(frozen=True, slots=True)
class Member:
    """A control plane's place in the cluster.

    Attributes:
        name: The node's, and its member's.
        peer: Its member's peer URL.
        address: Of the node.
    """

    name: str
    peer: str
    address: str


@dataclass(frozen=True, slots=True)
class Told:
    """What a set tells.

    Attributes:
        node, address: Of the control plane that it was taken on.
        data: etcd's data directory there, as the host has it.
        manifests: Static pods by name.
        configuration: kubeadm's ClusterConfiguration.
        form: Its API version.
        port: Of API servers.
        runtime: The container runtime's socket, "" where nothing names it.
        provider: The node's provider id, "" without one.
        overridden: Its name is not that of the host, but given to its kubelet.
    """

    node: str
    address: str
    data: str
    manifests: Mapping[str, Manifest]
    configuration: str
    form: str
    port: str
    runtime: str
    provider: str
    overridden: bool

    @property
    def images(self) -> tuple[str, ...]:
        """Of the static pods."""
        return tuple(sorted({m.image for m in self.manifests.values()}))


def told(texts: Mapping[str, str], files: Collection[str]) -> Told:
    """What a set tells.

    Args:
        texts: Contents of manifests, of `KUBELET` and of `CONFIGMAPS`, by path.
        files: Paths of all that is in it.

    Raises:
        Refused: No control plane can be made of it.
    """
    manifests = _manifests(texts)
    missing = lacks(texts, files)
    if missing:
        raise Refused(
            f"the recovery set lacks {', '.join(missing)}",
            remedy="use another set: `orchestrator etcd list` shows snapshots with one; what an authority outside of "
            "kubeadm signs, and etcd outside of the control planes, are rebuilt by hand",
        )
    etcd, server = manifests["etcd"], manifests["kube-apiserver"]
    configuration, form = _configuration(texts[CONFIGMAPS])
    if apart(texts):
        raise Refused("etcd keeps its log apart, or runs as another user: that is not rebuilt", remedy="do it by hand")
    kubelet = "\n".join(texts.get(path, "") for path in KUBELET)
    return Told(
        node=etcd.flag("name"),
        address=server.flag("advertise-address"),
        data=_data(etcd),
        manifests=manifests,
        configuration=configuration,
        form=form,
        port=server.flag("secure-port") or "6443",
        runtime=_first(_ENDPOINT, kubelet),
        provider=_first(_PROVIDER, kubelet),
        overridden="--hostname-override" in kubelet,
    )


def lacks(texts: Mapping[str, str], files: Collection[str]) -> tuple[str, ...]:
    """Paths of what a rebuild could not do without and a set has not, or not in a form that is known; as `told`."""
    manifests = _manifests(texts)
    missing = [f"{MANIFESTS}/{name}.yaml" for name in _PROGRAMS if name not in manifests]
    missing += [path for path in (*SHARED, TOOL, CONFIGMAPS) if path not in files]
    if server := manifests.get("kube-apiserver"):
        missing += [path for flag, path in named(server.text) if _WANTED.search(flag) and path not in files]
    return tuple(missing)


def named(text: str) -> tuple[tuple[str, str], ...]:
    """Each flag of an API server's manifest that names a file, and where the host has that."""
    mounts = _mounts(text)
    return tuple((flag, _on_host(path, mounts)) for flag, path in _FILE.findall(text))


def encryption(text: str) -> str:
    """Where the host has the keys of encryption at rest, by its API server's manifest; "" without any."""
    return dict(named(text)).get("encryption-provider-config", "")


def sockets(text: str) -> str:
    """What has sed(1) name sockets of key management plugins as the host does, by its API server's manifest.

    What was replaced is marked until the end: a path of the host may be that of another mount in the container.
    """
    lines = []
    for inner, outer in _mounts(text):
        one, other = (_SPECIAL.sub(r"\\\g<0>", path) for path in (inner, outer))
        lines.append(f"s#unix://*{one}{_PATH_ENDS}#unix:@{other}\\1#g")
    return "".join(f"{line}\n" for line in [*lines, "s#unix:@#unix://#g"])


def _mounts(text: str) -> tuple[tuple[str, str], ...]:
    """Paths in an API server's container, and on its host; the innermost first. None where that is not told.

    Source: Kubernetes' API, core/v1, VolumeMount and HostPathVolumeSource; kubeadm's `extraVolumes`.
    """
    try:
        spec = yaml.safe_load(text)["spec"]
        volumes = {v["name"]: v["hostPath"]["path"] for v in spec["volumes"] if "hostPath" in v}
        server = next(c for c in spec["containers"] if str(c["command"][0]).endswith("kube-apiserver"))
        mounts = [m for m in server["volumeMounts"] if m["name"] in volumes]
        places = {m["mountPath"].rstrip("/"): join(volumes[m["name"]], m.get("subPath", "")) for m in mounts}
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, StopIteration):
        return ()
    return tuple((inner, places[inner].rstrip("/")) for inner in sorted(places, key=len, reverse=True))


def _on_host(path: str, mounts: Iterable[tuple[str, str]]) -> str:
    for inner, outer in mounts:
        if path == inner or path.startswith(f"{inner}/"):
            return outer + path.removeprefix(inner)
    return path


def elsewhere(files: Collection[str]) -> frozenset[str]:
    """Paths that no host has to have: a cluster may be made so that they are not there. It is then rebuilt by hand."""
    return _KEYS if f"{MANIFESTS}/etcd.yaml" in files else _KEYS | _ETCD | {TOOL}


def apart(texts: Mapping[str, str]) -> bool:
    """Whether etcd keeps its log apart from its data, or runs as another user than root."""
    etcd = _manifests(texts).get("etcd")
    return etcd is not None and bool(etcd.flag("wal-dir") or re.search(r"runAsUser: *[1-9]", etcd.text))


def reservations(here: Told, texts: Mapping[str, str]) -> tuple[str, ...]:
    """What a rebuild of a whole set can do without, and an operator should know before it is needed."""
    said = []
    if KUBELET[0] not in texts:
        said.append(f"{here.node} has no {KUBELET[0]}: the kubelets of new machines need settings of their own")
    if any(_TWO.search(text) for text in texts.values()):
        said.append(f"{here.node} has two addresses: only {here.node} can be made of its set, others have to join it")
    return tuple(said)


def _manifests(texts: Mapping[str, str]) -> dict[str, Manifest]:
    """Static pods by name; those that can be read."""
    return {
        name: m
        for name in _PROGRAMS
        if (path := f"{MANIFESTS}/{name}.yaml") in texts
        and (m := hostfacts.manifest(Section((path,), texts[path]))) is not None
    }


def _configuration(text: str) -> tuple[str, str]:
    """The ClusterConfiguration of kubeadm among ConfigMaps, and its API version.

    Raises:
        FactUnreadable: It is not there.
        Refused: Its certificates are elsewhere.
    """
    try:
        listed = yaml.safe_load(text)
        found = next(e["data"]["ClusterConfiguration"] for e in listed["items"] if "ClusterConfiguration" in e["data"])
        read = yaml.safe_load(found)
        form, place = str(read["apiVersion"]), read.get("certificatesDir", PKI)
    except (yaml.YAMLError, StopIteration, KeyError, TypeError, AttributeError) as err:
        raise FactUnreadable(
            f"the recovery set has no ClusterConfiguration of kubeadm ({type(err).__name__})", remedy="use another set"
        ) from err
    if place != PKI:
        raise Refused(f"certificates are in {place}, and are not in the set", remedy="do it by hand")
    return str(found), form


def _data(etcd: Manifest) -> str:
    """Source: kubeadm's manifest: a volume `etcd-data`, whose path stands before or behind its name."""
    try:
        volumes = yaml.safe_load(etcd.text)["spec"]["volumes"]
        return str(next(v["hostPath"]["path"] for v in volumes if v["name"] == "etcd-data"))
    except (yaml.YAMLError, StopIteration, KeyError, TypeError) as err:
        raise FactUnreadable("etcd.yaml names no directory for its data", remedy="use another set") from err


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


# ---- made another node's ----------------------------------------------------------------------------------------


def rewritten(path: str, text: str, here: Told, node: Member, members: Iterable[Member]) -> str:
    """A file of the set as it is on `node`: byte by byte the same where the set was taken, with the same members.

    Raises:
        Refused: It cannot be told what would stand there.
    """
    if node.name != here.node:
        text = _anothers(path, text, here, node)
    if path.endswith("/etcd.yaml"):
        everyone = ",".join(f"{m.name}={m.peer}" for m in members)
        text = _MEMBERS.sub(lambda m: m[1] + everyone, text)
    return text


def _anothers(path: str, text: str, here: Told, node: Member) -> str:
    if _TWO.search(text):
        raise Refused(
            f"{path} of {here.node} gives its node two addresses; the second one of {node.name} is not known",
            remedy=f"name {here.node} only, then: kubeadm join --control-plane on {node.name}",
        )
    text = _NAMING.sub(lambda m: m[1] + _swapped(m[2], here.node, node.name), text)
    return _swapped(text, here.address, node.address)


def _swapped(text: str, old: str, new: str) -> str:
    """`old` where it stands as a whole: `10.0.0.1` is not in `10.0.0.11`, nor `cp` in `cp-2`."""
    colon = ":" if ":" in old else ""
    return re.sub(rf"(?<![\w.{colon}-]){re.escape(old)}(?![\w.{colon}-])", lambda _: new, text)


def provider_of(here: Told, node: str) -> str:
    """The provider id of another control plane, where it has the node's name in it; else ""."""
    made = _swapped(here.provider, here.node, node)
    return made if node == here.node or made != here.provider else ""


def configured(here: Told, node: Member) -> str:
    """The configuration with which kubeadm makes what is `node`'s own.

    Source: kubeadm's API, InitConfiguration: its node's name and address go into certificates and kubeconfigs.
    """
    registration = {"name": node.name, **({"criSocket": here.runtime} if here.runtime else {})}
    first = {
        "apiVersion": here.form,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": node.address, "bindPort": int(here.port)},
        "nodeRegistration": registration,
    }
    return f"{yaml.safe_dump(first)}---\n{here.configuration}"


# ---- machines ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Machine:
    """A host as it stands.

    Attributes:
        name: Its host name.
        addresses: Its own.
        kubeadm, kubelet: Versions, "" where there is none.
        runtime: A container runtime runs.
        kubectl: It is installed.
        occupied: What is there that a fresh machine has not, in words.
        processes: Of a control plane, by name.
        manifests, aside: Static pods in the kubelet's directory, and those beside it of this plan.
        own: This plan began here; `set`, `snapshot`: it brought them; `placed`: its files are in place.
        member: There are data of etcd.
        kubelet_runs: Its service is active.
        ended: It came to its end here.
        others: Plans of other rebuilds that began here, and did not end.
    """

    name: str
    addresses: tuple[str, ...]
    kubeadm: str
    kubelet: str
    runtime: bool
    kubectl: bool
    occupied: tuple[str, ...]
    processes: tuple[str, ...]
    manifests: tuple[str, ...]
    aside: tuple[str, ...]
    own: bool
    set: bool
    snapshot: bool
    placed: bool
    member: bool
    ended: bool
    kubelet_runs: bool
    others: tuple[str, ...]


def machine(node: str, answer: str) -> Machine:
    """The answer to `queries.REBUILD`.

    Raises:
        FactUnreadable: It is not whole.
    """
    found = sections(answer)
    if "end" not in found:
        raise FactUnreadable(f"{node}: its answer is not whole", remedy=f"look at {node}, then repeat")

    def text(name: str) -> str:
        return found[name][0].text.strip() if name in found else ""

    def pods(name: str) -> tuple[str, ...]:
        return tuple(sorted(w.removeprefix("./").removesuffix(".yaml") for w in text(name).split()))

    return Machine(
        name=text("name").lower(),
        addresses=tuple(text("addresses").split()),
        kubeadm=text("kubeadm"),
        kubelet=text("kubelet").removeprefix("Kubernetes "),
        runtime="active" in text("runtime").split(),
        kubectl=bool(text("kubectl")),
        occupied=tuple(" ".join(each.words) for each in found.get("occupied", ())),
        processes=tuple(sorted({each.words[0] for each in found.get("process", ())})),
        manifests=pods("manifests"),
        aside=pods("aside"),
        **{name: name in found for name in ("own", "set", "snapshot", "placed", "member", "ended")},
        kubelet_runs=text("service") == "active",
        others=tuple(text("others").split()),
    )


def unfit(host: Machine, here: Told, node: Member, storage: str) -> tuple[str, ...]:
    """Why a machine cannot become that control plane; none when it can.

    Args:
        host: The machine.
        here: What the set tells.
        node: What it would become.
        storage: The version of the data in the snapshot, "" of etcd before 3.6.
    """
    wrong = [f"it has {each}: it is not fresh" for each in host.occupied]
    wrong += [f"{each} runs" for each in host.processes]
    if host.others:
        wrong.append(f"{', '.join(host.others)} began there: resume it, or release it")
    if node.address not in host.addresses:
        wrong.append(f"it has not the address {node.address} of {node.name}, but {', '.join(host.addresses) or 'none'}")
    if host.name.partition(".")[0] != node.name.partition(".")[0] and not here.overridden:
        wrong.append(f"its host name is {host.name or 'not known'}, not {node.name}")
    return (*wrong, *_unlike(host, here, storage))


def _unlike(host: Machine, here: Told, storage: str) -> Iterable[str]:
    """Versions and programs that do not fit."""
    wanted = here.manifests["kube-apiserver"].version
    kubeadm, kubelet = parse(host.kubeadm), parse(host.kubelet)
    if wanted is None:
        yield f"the set's API server is {here.manifests['kube-apiserver'].image}: its version cannot be told"
        return
    if kubeadm is None or kubeadm.line != wanted.line:
        yield f"kubeadm is {host.kubeadm or 'not installed'}, the set is of {wanted}"
    if kubelet is None or kubelet_skew(host.kubelet, str(wanted)) is not Skew.WITHIN:
        yield f"the kubelet is {host.kubelet or 'not installed'}, the set's API server {wanted}"
    if not host.kubectl:
        yield "kubectl is not installed"
    if not host.runtime:
        yield "neither containerd nor CRI-O runs"
    etcd, stored = here.manifests["etcd"].version, parse(storage or "3.5.0")
    if etcd is not None and stored is not None and etcd.line < stored.line:
        yield f"the set's etcd is {etcd}, which cannot read data of {storage}"


# ---- afterwards -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heard:
    """A node object, and its kubelet.

    Attributes:
        name: The node's.
        age_s: Since its kubelet renewed its lease, in seconds; None when it never did.
        ready: It is Ready, as the API has it.
        why: What its kubelet says to that.
    """

    name: str
    age_s: int | None
    ready: bool
    why: str


def heard(answer: str) -> tuple[Heard, ...] | None:
    """The answer to `queries.KUBELETS`; None when the API server did not tell."""
    found = sections(answer)
    if "end" not in found:
        return None
    ages = {each.words[0]: int(each.words[1]) for each in found.get("lease", ()) if each.words[1:]}
    return tuple(
        Heard(each.words[0], ages.get(each.words[0]), "True" in each.words[1:], each.text.strip())
        for each in found.get("node", ())
    )
