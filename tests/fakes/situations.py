"""Clusters in order as they are before an upgrade, by hosts as real ones answered; a test says what is not in order."""

from dataclasses import replace
from functools import cache
from pathlib import Path

from orchestrator.cluster import hostfacts, preflight
from orchestrator.cluster.etcd import Member, Status
from orchestrator.cluster.hostfacts import EtcdFacts, Offers
from orchestrator.cluster.model import Budget, Node, OwnerRef, Pod, Selector, Taint
from orchestrator.cluster.preflight import Severity, Situation
from orchestrator.cluster.versions import Hop, parse

FACTS = Path(__file__).parents[1] / "unit" / "facts" / "hosts"
DAY = 86400.0
NOW = 1795513820.0
V135, V136, V137 = parse("v1.35.4"), parse("v1.36.3"), parse("v1.37.2")
TAINT = Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule")
CONFIG = "/var/lib/kubelet/config.yaml"
ENV = "/var/lib/kubelet/kubeadm-flags.env"
CONFIGURATION = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nkubernetesVersion: v1.36.3\n"
OWNER = OwnerRef("ReplicaSet", "web-1", "apps/v1")


@cache
def captured(name):
    found = hostfacts.parse_look(name, (FACTS / f"examine.{name}.txt").read_text())
    return replace(found, cgroup="v2")


def plane(name="cp1", **changes):
    return replace(captured("dev-control-plane"), node=name, **changes)


def worker(name="w1", **changes):
    return replace(captured("dev-worker"), node=name, **changes)


def at(host, version, *, kubelet=None):
    """The host with everything of its own at one version, its kubelet at another."""
    kubelet = kubelet or version
    return replace(
        host,
        manifests={
            n: m if n == "etcd" else replace(m, image=f"registry.k8s.io/{n}:{version}")
            for n, m in host.manifests.items()
        },
        components={n: v if n == "etcd" else version for n, v in host.components.items()},
        kubelet=kubelet,
        running=kubelet,
        kubeadm=version,
    )


def node(name, **changes):
    taints = (TAINT,) if name.startswith("cp") else ()
    return replace(
        Node(
            name, "u", "1", unschedulable=False, ready=True, taints=taints, kubelet_version="v1.36.3",
            container_runtime="containerd://2.1.4",
        ),
        **changes,
    )  # fmt: skip


def etcd(count=1, *, down=(), **changes):
    """So many members, numbered from 1; those of `down` do not answer."""
    members = tuple(Member(i, f"cp{i}", (), (f"https://cp{i}:2379",)) for i in range(1, count + 1))
    one = Status(
        endpoint="", id=0, version="3.6.8", storage_version="3.6.0", db_size_bytes=3_000_000, in_use_bytes=2_000_000,
        quota_bytes=2 * 2**30, leader=1, raft_term=2, raft_index=100, raft_applied=100, learner=False, errors=(),
    )  # fmt: skip
    living = [m for m in members if m.id not in down]
    statuses = tuple(replace(one, id=m.id, endpoint=m.client_urls[0], **changes) for m in living)
    health = {m.client_urls[0]: "context deadline exceeded" if m.id in down else "" for m in members}
    return EtcdFacts(members, statuses, health)


def situation(*hosts, to=(V137,), **changes):
    """A cluster in order, on its way up; `changes` are what is not."""
    hosts = hosts or (plane(), worker())
    names = tuple(h.node for h in hosts)
    planes = [h.node for h in hosts if h.control_plane]
    hops = tuple(Hop(v, workers=True) for v in to)
    offers = {n: {f"{v.major}.{v.minor}": Offers({v: f"{v}-1.1"}, "") for v in to} for n in names}
    made = Situation(
        nodes=tuple(node(n) for n in names),
        hosts={h.node: h for h in hosts},
        etcd=etcd(len(planes)),
        apis=dict.fromkeys(planes, ""),
        offers=offers,
        checks=dict.fromkeys(names, ((), "")),
        edited=dict.fromkeys(planes, ""),
        pods=(),
        budgets=(),
        workloads=(),
        refused={n: {} for n in names},
        deprecated=(),
        configuration=CONFIGURATION,
        hops=hops,
        upgrading=names,
        now=NOW,
    )
    return replace(made, **changes)


def found(made, *checks):
    """Findings of these checks, all but notes when none is named."""
    return [
        f for f in preflight.findings(made) if (f.check in checks if checks else f.severity is not Severity.NOTE)
    ]  # fmt: skip


def only(made, check):
    (one,) = found(made, check)
    return one


def pod(name, where="w1", **changes):
    return replace(
        Pod("web", name, "u", where, "Running", ready=True, controller=OWNER, labels={"app": "web"}), **changes
    )  # fmt: skip


def budget(name, allowed, **changes):
    return replace(Budget("web", name, Selector({"app": "web"}), allowed, healthy=2, needed=2, expected=2), **changes)


def kubelet(config="", files=None, arguments=(), **changes):
    return worker(files={CONFIG: config, **(files or {})}, arguments=arguments, **changes)
