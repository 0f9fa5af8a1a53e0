"""kind: what it is asked for, and what it is told behind its back because it has no setting for it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from typing import TYPE_CHECKING, Any

from lab import gobuild, host, network
from lab.docker import LABEL, Docker
from lab.errors import LabError
from lab.processes import TIED_TO_US, attempt

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lab.state import Cluster

# Source: kind 0.33 `loadbalancer.Image`.
_BALANCER_IMAGE = "docker.io/envoyproxy/envoy:v1.36.2"
_CAP_SYS_RESOURCE = 24
_TAIL_LINES = 25
_LIMIT_S = 600


def create(docker: Docker, cluster: Cluster, *, balancer_image: str) -> None:
    """Start the nodes and let kubeadm make a cluster of them.

    Raises:
        LabError: kind failed; it has removed the nodes again.
    """
    settings = cluster.directory / "kind.json"
    settings.write_text(json.dumps(configuration(cluster), indent=1))
    tools = _docker_for_kind(cluster, balancer_image)
    proxied = {name for name in os.environ if name.lower() in ("http_proxy", "https_proxy", "no_proxy")}
    kept = {name: value for name, value in docker.env().items() if cluster.published or name not in proxied}
    env = {**kept, "KIND_EXPERIMENTAL_DOCKER_NETWORK": network.NAME, "PATH": f"{tools}:{os.environ['PATH']}"}
    argv = [str(gobuild.kind() / "kind"), "create", "cluster", f"--name={cluster.name}", f"--config={settings}"]
    argv += [f"--image={cluster.image}", f"--kubeconfig={cluster.kubeconfig}", "--verbosity=3"]
    done = attempt(argv, env=env, timeout_s=_LIMIT_S)
    log = cluster.directory / "kind.log"
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        tail = "\n".join(log.read_text().splitlines()[-_TAIL_LINES:])
        raise LabError(f"kind could not create {cluster.name}:\n{tail}", remedy=f"the whole story is in {log}")


def configuration(cluster: Cluster) -> dict[str, Any]:
    """What kind is asked for, as its configuration file (JSON is YAML).

    Source: kind.x-k8s.io/v1alpha4; kubelet 1.36 refuses cgroup v1 unless `failCgroupV1` is false.
    """
    kubelet: dict[str, Any] = {"kind": "KubeletConfiguration", "failCgroupV1": False}
    if _CAP_SYS_RESOURCE not in host.capabilities():
        kubelet["featureGates"] = {"KubeletInUserNamespace": True}  # it then does without limits that it may not set
    # kube-proxy leaves connection tracking as it is: its table is the machine's, not the node's.
    conntrack = {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    proxy = {"kind": "KubeProxyConfiguration", "conntrack": conntrack}
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {
            "disableDefaultCNI": not cluster.published,
            "podSubnet": network.PODS,
            "serviceSubnet": network.SERVICES,
        },
        "kubeadmConfigPatches": [json.dumps(kubelet), json.dumps(proxy)],
        "nodes": [{"role": node.role} for node in cluster.nodes() if node.role != "load-balancer"],
    }


def _docker_for_kind(cluster: Cluster, balancer_image: str) -> Path:
    """A directory with a `docker` for kind's PATH."""
    real = shutil.which("docker")
    if real is None:
        raise LabError("there is no docker command", remedy="apt-get install docker.io")
    directory = cluster.directory / "bin"
    directory.mkdir(exist_ok=True)
    wrapper = directory / "docker"
    wrapper.write_text(wrapper_script(real, cluster, balancer_image))
    wrapper.chmod(0o755)
    return directory


def wrapper_script(real: str, cluster: Cluster, balancer_image: str) -> str:
    """A `docker` that gives each new node its fixed address and the lab's label, and the load balancer the lab's image.

    Docker hands a stopped container's address to the next that asks: nodes that are switched off and on would swap
    theirs. kind has settings for neither, nor for the image. Source: kind 0.33 runs `docker run --name NODE ...`.

    What it calls ends with kind, which the kernel ends with us: else a killed lab's nodes would come up after it.

    Nor do names outside the lab have to be waited for: kind's entrypoint looks one up, 5 s of every boot.
    """
    options = [f"--label {LABEL}={cluster.name}"]
    if not cluster.published:
        options += [f"--dns {network.NOWHERE}", f"--add-host host.docker.internal:{network.GATEWAY}"]
    tied = shlex.join((*TIED_TO_US, real))
    places = (f"    {node.name}) address={node.address} ;;" for node in cluster.nodes())
    return "\n".join(
        (
            "#!/bin/sh",
            *_replacing(_BALANCER_IMAGE, balancer_image),
            'if [ "$1 $2" = "run --name" ]; then',
            "  node=$3; shift 3",
            "  case $node in",
            *places,
            "  esac",
            f'  exec {tied} run --name "$node" --ip "$address" {" ".join(options)} "$@"',
            "fi",
            f'exec {tied} "$@"',
            "",
        )
    )


def _replacing(old: str, new: str) -> Iterable[str]:
    """Lines of shell that replace a word among the arguments."""
    if not new:
        return ()
    return ("for word; do", "  shift", f'  [ "$word" = {old} ] && word={new}', '  set -- "$@" "$word"', "done")
