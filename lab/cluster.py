"""A cluster from nothing to Ready, and back to nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lab import aptsite, building, debs, docker, host, kind, network, nodeimage, progress, ssh, state, versions
from lab.errors import LabError
from lab.processes import attempt, wait_for
from lab.state import Cluster, Node, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from lab.docker import Docker
    from lab.layers import Image

_HEALTHY_S = 180
_BOOTED_S = 60
_KUBECTL = ("kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--request-timeout=5s")


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asks for."""

    name: str
    shape: Shape
    version: str
    offered: tuple[str, ...]
    image: str = ""

    def __post_init__(self) -> None:
        state.check_name(self.name)
        for version in (self.version, *self.offered):
            if not self.image and version not in versions.KUBERNETES:
                known = ", ".join(versions.KUBERNETES)
                raise LabError(f"the lab cannot build Kubernetes {version}", remedy=f"choose one of {known}")

    def cluster(self, *, slot: int) -> Cluster:
        """The record to begin with."""
        if self.image:
            return Cluster(self.name, str(self.shape), "", (), self.image, slot)
        offered = tuple(sorted({self.version, *self.offered}))
        return Cluster(self.name, str(self.shape), self.version, offered, "", slot)


def up(request: Request) -> Cluster:
    """The cluster that was asked for, healthy; one that is there already is used."""
    host.check_machine()
    with state.lock(f"cluster-{request.name}"):
        known = state.load(request.name)
        if known is not None and known.status == "up":
            return _reuse(known, request)
        if known is not None:
            progress.say(f"{request.name} was left half made: removing it first")
            _remove(known)
        host.ensure_tools()
        runs_on, image, balancer = _prepare(request)
        with state.lock("lab"):
            draft = request.cluster(slot=state.free_slot())
            _refuse_strangers(runs_on, draft)
            cluster = replace(draft, image=image).save()
            _serve(runs_on, cluster)
        with progress.step(f"kind creates {cluster.name}, {cluster.shape} nodes"):
            kind.create(runs_on, cluster, balancer_image=balancer)
        return _finish(runs_on, cluster)


def down(name: str) -> bool:
    """Remove a cluster, however far it came; with the last one goes all that the lab runs."""
    with state.lock(f"cluster-{name}"):
        known = state.load(name)
        if known is not None:
            _remove(known)
    tidy()
    return known is not None


def tidy() -> None:
    """End what serves clusters when there is none left."""
    with state.lock("lab"):
        if state.clusters():
            return
        aptsite.stop()
        runs_on = docker.current()
        if runs_on is not None:
            network.remove(runs_on)
        docker.stop()
        host.restore_limits(_limits_before())


def power(node: Node, cluster: Cluster, action: str) -> None:
    """The power button of a node: `off` is a cut of the power, not a shutdown."""
    runs_on = _daemon()
    if action in ("off", "cycle") and node.name in _running(runs_on, cluster):
        runs_on.kill(cluster.containers[node.name])
        wait_for(
            f"{node.name} to be off",
            lambda: node.name not in _running(runs_on, cluster),
            timeout_s=30,
            remedy=f"docker inspect {node.name}",
        )
    if action in ("on", "cycle"):
        runs_on.run("start", node.name)
        if node.role == "load-balancer":
            return
        answer = ssh.command(cluster, node.name, ("true",))
        wait_for(
            f"{node.name} to answer",
            lambda: attempt(answer).returncode == 0,
            timeout_s=_BOOTED_S,
            remedy=f"docker logs {node.name}",
        )


def cut(node: Node, cluster: Cluster, *, heal: bool) -> None:
    """Unplug a running node's network, or plug it in again."""
    runs_on = _daemon()
    if node.name not in _running(runs_on, cluster):
        raise LabError(
            f"{node.name} is off, and its network comes back with its power",
            remedy=f"python -m lab power {node.name} on",
        )
    (network.heal if heal else network.cut)(runs_on, node.name)


def find_node(name: str) -> tuple[Cluster, Node]:
    """A node of any cluster by its name."""
    nodes = {node.name: (cluster, node) for cluster in state.clusters() for node in cluster.nodes()}
    if name not in nodes:
        known = ", ".join(nodes) or "none: python -m lab up"
        raise LabError(f"there is no node {name}", remedy=f"nodes are: {known}")
    return nodes[name]


def unhealthy(runs_on: Docker, cluster: Cluster) -> str:
    """Why a cluster is not healthy yet; empty when it is."""
    try:
        nodes = _kubectl(runs_on, cluster, "get", "nodes", "-o", "json")["items"]
        pods = _kubectl(runs_on, cluster, "-n", "kube-system", "get", "deployments,daemonsets", "-o", "json")["items"]
    except LabError as error:
        return str(error)
    ready = {node["metadata"]["name"] for node in nodes if _condition(node, "Ready")}
    missing = [node.name for node in cluster.nodes() if node.role != "load-balancer" and node.name not in ready]
    if missing:
        return f"{', '.join(missing)} not Ready"
    waiting = [item["metadata"]["name"] for item in pods if not _available(item)]
    return f"{', '.join(waiting)} not available" if waiting else ""


def build(request: Request) -> Image:
    """The node image that the lab makes for a request, and everything else that takes long to build."""
    host.check_machine()
    host.ensure_tools()
    return building.node_image(request.version, request.cluster(slot=0).offered)


def _prepare(request: Request) -> tuple[Docker, str, str]:
    """The daemon, and the tags of the images for nodes and for a load balancer, loaded into it."""
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(docker.ensure)
        if request.image:
            return starting.result(), request.image, ""
        node = build(request)
        runs_on = starting.result()
    balancer = runs_on.load(nodeimage.load_balancer()) if request.shape.control_planes > 1 else ""
    return runs_on, runs_on.load(node), balancer


def _serve(runs_on: Docker, cluster: Cluster) -> None:
    """What nodes need around them: limits, the network with its guard, packages."""
    host.raise_limits(_limits_before())
    network.ensure(runs_on, sealed=not any(other.published for other in state.clusters()))
    if not cluster.published:
        aptsite.serve(cluster.offered)


def _limits_before() -> Path:
    return state.run_directory() / "limits-before.json"


def _reuse(known: Cluster, request: Request) -> Cluster:
    """A cluster that is up, when it is the one that was asked for and can be made healthy."""
    wanted = request.cluster(slot=known.slot)
    same = wanted.asked() == (*known.asked()[:-1], known.image if known.published else "")
    if not same:
        raise LabError(
            f"{known.name} is up with other settings: {known.shape}, {known.version or known.image},"
            f" offering {', '.join(known.offered)}",
            remedy=f"python -m lab down --name {known.name}, or choose another --name",
        )
    runs_on = docker.ensure()
    if not unhealthy(runs_on, known):
        return known
    with progress.step(f"{known.name} is up but not healthy: starting what is stopped"):
        with state.lock("lab"):
            _serve(runs_on, known)
        runs_on.run("start", *known.containers)
        _wait_until_healthy(runs_on, known)
    return known


def _finish(runs_on: Docker, cluster: Cluster) -> Cluster:
    """What kind leaves to do: a pod network, ssh, packages, a power button; then wait."""
    containers = runs_on.containers(cluster.name)
    runs_on.run("update", "--restart=unless-stopped", *containers)
    with progress.step("pod network, ssh and apt on each node"):
        ranges = {} if cluster.published else _pod_ranges(runs_on, cluster)
        nodes = [node for node in cluster.nodes() if node.role != "load-balancer"]
        with ThreadPoolExecutor() as pool:
            scripts = [
                _published_script() if cluster.published else node_script(cluster, node, ranges) for node in nodes
            ]
            keys = list(pool.map(lambda node, script: _provision(runs_on, node, script), nodes, scripts))
        ssh.write(cluster, {node.name: key for node, key in zip(nodes, keys, strict=True)})
    with progress.step(f"waiting until {cluster.name} is healthy"):
        _wait_until_healthy(runs_on, cluster)
    return replace(cluster, status="up", containers=containers).save()


def _provision(runs_on: Docker, node: Node, script: str) -> str:
    """Run a script on a node and give the node's public host keys."""
    key = f"cat > /root/.ssh/authorized_keys <<'KEY'\n{ssh.public_key()}KEY\n"
    script = f"mkdir -p -m 700 /root/.ssh\n{key}{script}cat /etc/ssh/ssh_host_*_key.pub\n"
    return runs_on.run("exec", "-i", node.name, "sh", "-eu", stdin=script)


def _published_script() -> str:
    """Published node images have no sshd; Debian's comes from the network that they need anyway."""
    return (
        "{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends"
        " openssh-server && systemctl enable --now ssh; } >&2\n"
    )


def node_script(cluster: Cluster, node: Node, ranges: Mapping[str, str]) -> str:
    """What makes a node part of the pod network, also after a reboot, and shows it where packages are.

    A pod address whose route is missing must not leave by the default gateway: hence `unreachable`, behind real routes.
    A pod that asks for a service before kube-proxy knows it is refused, so that it asks again at once: unanswered, its
    connection would be tried for 30 s, and connection tracking would keep it from kube-proxy's rules all that time.

    Nor does a pod reach anything outside the lab. The machine would see to that too, but its refusal would not reach
    the pod, whose address it has no route to.
    """
    address = {other.name: other.address for other in cluster.nodes()}
    refused = (f"FORWARD -d {network.SERVICES} -j REJECT", f"FORWARD -s {network.PODS} ! -d {network.RANGE} -j REJECT")
    routes = [f"ip route replace unreachable {network.PODS} metric 9999"]
    routes += [f"iptables -w -C {rule} 2>/dev/null || iptables -w -A {rule}" for rule in refused]
    routes += [f"ip route replace {ranges[name]} via {address[name]}" for name in sorted(ranges) if name != node.name]
    files = {
        "/etc/cni/net.d/10-lab.conflist": json.dumps(_cni(ranges[node.name]), indent=1) + "\n",
        "/etc/lab/routes": "\n".join(routes) + "\n",
        "/etc/apt/sources.list.d/kubernetes.list": aptsite.source_line(debs.minor(cluster.version)),
    }
    writes = (f"mkdir -p $(dirname {path})\ncat > {path} <<'FILE'\n{text}FILE\n" for path, text in files.items())
    return "".join(writes) + "systemctl restart pod-routes >&2\napt-get update -q >&2\n"


def _cni(pods: str) -> dict[str, Any]:
    """One cable to each pod. Source: the CNI plugins ptp, host-local and portmap, as Debian 12 packages them."""
    addresses = {
        "type": "host-local",
        "dataDir": "/run/cni-addresses",  # pods do not outlive a boot, nor may their addresses
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": pods}]],
    }
    cable = {"type": "ptp", "ipMasq": False, "mtu": 1500, "ipam": addresses}
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.3.1", "name": "lab", "plugins": [cable, ports]}


def _pod_ranges(runs_on: Docker, cluster: Cluster) -> dict[str, str]:
    """Node -> the addresses of its pods, once the controller manager has given them all out."""
    found: dict[str, str] = {}

    def complete() -> bool:
        listing = _kubectl(runs_on, cluster, "get", "nodes", "-o", "json")["items"]
        found.update({item["metadata"]["name"]: item["spec"].get("podCIDR", "") for item in listing})
        return len(found) == Shape.parse(cluster.shape).total and all(found.values())

    wait_for("pod ranges of all nodes", complete, timeout_s=60, remedy=f"see {cluster.directory}/kind.log")
    return found


def _wait_until_healthy(runs_on: Docker, cluster: Cluster) -> None:
    reasons = [""]

    def healthy() -> bool:
        reasons.append(unhealthy(runs_on, cluster))
        return not reasons[-1]

    try:
        wait_for(f"{cluster.name} to be healthy", healthy, timeout_s=_HEALTHY_S, pause_s=0.5, remedy="")
    except LabError as late:
        remedy = f"python -m lab down --name {cluster.name}; python -m lab up --name {cluster.name}"
        raise LabError(f"{late}; last: {reasons[-1]}", remedy=remedy) from None


def _kubectl(runs_on: Docker, cluster: Cluster, *args: str) -> dict[str, Any]:
    """What kubectl says on the first control plane, which has it in every kind of node image."""
    answer: dict[str, Any] = json.loads(runs_on.run("exec", cluster.nodes()[0].name, *_KUBECTL, *args))
    return answer


def _condition(item: Mapping[str, Any], kind_of: str) -> bool:
    conditions = item.get("status", {}).get("conditions", [])
    return any(entry["type"] == kind_of and entry["status"] == "True" for entry in conditions)


def _available(item: Mapping[str, Any]) -> bool:
    """Whether all that a Deployment or DaemonSet wants is there."""
    status = item["status"]
    if item["kind"] == "DaemonSet":
        wanted: int = status["desiredNumberScheduled"]
        return wanted > 0 and status.get("numberAvailable", 0) == wanted
    return bool(status.get("availableReplicas", 0) == item["spec"]["replicas"])


def _refuse_strangers(runs_on: Docker, draft: Cluster) -> None:
    """Raises LabError where someone else's containers bear the names that ours would have."""
    taken = {node.name for node in draft.nodes()} & _strangers(runs_on, draft)
    if taken:
        raise LabError(
            f"containers named {', '.join(sorted(taken))} exist and are not the lab's",
            remedy="choose another name: python -m lab up --name OTHER",
        )


def _strangers(runs_on: Docker, cluster: Cluster) -> set[str]:
    """Names of containers that are not this cluster's."""
    everyone = runs_on.run("ps", "--all", f"--format={{{{.Names}}}} {{{{.Label {json.dumps(docker.LABEL)}}}}}")
    return {line.split()[0] for line in everyone.splitlines() if line.split()[1:] != [cluster.name]}


def _remove(cluster: Cluster) -> None:
    """Remove the containers of a cluster, and what is remembered of it, in this order."""
    host.check_machine()
    runs_on = docker.ensure()

    def gone() -> bool:
        left = runs_on.containers(cluster.name)
        if left:
            runs_on.kill(*left.values())
            attempt(["docker", "rm", "--force", "--volumes", *left.values()], env=runs_on.env())
            return False
        return cluster.status == "up" or not any(_is_being_made(runs_on, cluster, node) for node in cluster.nodes())

    with progress.step(f"removing {cluster.name}"):
        wait_for(f"the nodes of {cluster.name} to go", gone, timeout_s=120, remedy="docker ps --all")
    cluster.forget()


def _is_being_made(runs_on: Docker, cluster: Cluster, node: Node) -> bool:
    """Whether the daemon is at work on a node's container, as it goes on to be when the lab is killed meanwhile.

    It does not list such a container, but its name is taken. Source: moby 20.10 `daemon.create`: the name is reserved
    first, the container registered last.
    """
    named = f"--name={node.name}", f"--label={docker.LABEL}={cluster.name}"
    tried = attempt(
        ["docker", "create", "--pull=never", "--network=none", *named, cluster.image, "true"], env=runs_on.env()
    )
    if not tried.returncode:
        runs_on.run("rm", node.name)
    return "is already in use" in tried.stderr and node.name not in _strangers(runs_on, cluster)


def _daemon() -> Docker:
    found = docker.current()
    if found is None:
        raise LabError("no Docker daemon runs", remedy="python -m lab up")
    return found


def table(clusters: Sequence[Cluster]) -> list[str]:
    """Lines that show clusters and their nodes."""
    runs_on = docker.current()
    lines = []
    for cluster in clusters:
        what = cluster.version or cluster.image
        lines.append(f"{cluster.name}: {cluster.shape} nodes, {what}, {cluster.status}, {cluster.kubeconfig}")
        running = _running(runs_on, cluster)
        for node in cluster.nodes():
            condition = "on" if node.name in running else "off"
            if runs_on and condition == "on" and network.is_cut(runs_on, node.name):
                condition = "on, network cut"
            lines.append(f"  {node.name:<34} {node.address:<16} {node.role:<14} {condition}")
    return lines


def _running(runs_on: Docker | None, cluster: Cluster) -> frozenset[str]:
    if runs_on is None:
        return frozenset()
    told = runs_on.run("ps", f"--filter=label={docker.LABEL}={cluster.name}", "--format={{.Names}}")
    return frozenset(told.split())
