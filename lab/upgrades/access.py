"""Ways into a cluster of the lab from this machine: SSH, kubectl, and its API over connections of one's own."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from lab import gobuild, ssh
from lab.errors import LabError
from lab.processes import attempt, run

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from lab.state import Cluster, Node

_PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True)
class Access:
    """To one cluster."""

    cluster: Cluster

    def control_planes(self) -> tuple[Node, ...]:
        """In kind's order."""
        return tuple(node for node in self.cluster.nodes() if node.role == "control-plane")

    def workers(self) -> tuple[Node, ...]:
        """In kind's order."""
        return tuple(node for node in self.cluster.nodes() if node.role == "worker")

    def ssh(self, node: str, script: str, *, timeout_s: float = _PATIENCE_S) -> str:
        """What a shell script said on a node; it ends at the first command that fails."""
        argv = ssh.command(self.cluster, node, ("bash", "-eu", "-o", "pipefail", "-s"))
        return run(argv, stdin=script, timeout_s=timeout_s)

    def kubectl(self, *words: str, stdin: str | None = None, timeout_s: float = _PATIENCE_S) -> str:
        """What kubectl said, which has to end well."""
        return run(self._kubectl(words), stdin=stdin, timeout_s=timeout_s)

    def attempt(self, *words: str, timeout_s: float = _PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """The outcome of kubectl, whatever it is."""
        return attempt(self._kubectl(words), timeout_s=timeout_s)

    def read(self, *words: str) -> Any:
        """What `kubectl get` found."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def api(self, server: str = "") -> Api:
        """The API at that URL, such as one control plane's; without it, where the kubeconfig says."""
        return Api(self.cluster.kubeconfig, server)

    def server_of(self, node: Node) -> str:
        """The URL of the API server of one control plane."""
        return f"https://{node.address}:6443"

    def _kubectl(self, words: tuple[str, ...]) -> list[str]:
        program = gobuild.kubernetes(self.cluster.version) / "kubectl"
        return [str(program), "--kubeconfig", str(self.cluster.kubeconfig), *words]


class Api:
    """An API server as the administrator of a kubeconfig sees it. Each request has a connection of its own.

    Args:
        kubeconfig: A file with one cluster and one user, with certificates in it, as kubeadm and kind write it.
        server: URL to use in place of the one in it.
    """

    def __init__(self, kubeconfig: Path, server: str = "") -> None:
        written = yaml.safe_load(kubeconfig.read_text())
        cluster, user = written["clusters"][0]["cluster"], written["users"][0]["user"]
        url = urlsplit(server or cluster["server"])
        self.host, self.port = str(url.hostname), url.port or 443
        authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        # Only servers of this cluster have a certificate of its authority; a load balancer's address is in none.
        self.tls.check_hostname = False
        with tempfile.TemporaryDirectory() as directory:
            pair = Path(directory) / "pair.pem"  # ssl takes them from files only
            parts = (base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
            pair.write_bytes(b"\n".join(parts))
            self.tls.load_cert_chain(pair)

    def get(self, path: str, *, timeout_s: float = 10.0) -> Any:
        """The JSON that is there.

        Raises:
            LabError: The server answered that there is none.
            OSError: It did not answer.
            http.client.HTTPException: It broke off.
        """
        with closing(self._connection(timeout_s)) as connection:
            connection.request("GET", path)
            return json.loads(_accepted(connection.getresponse(), path).read())

    def lines(self, path: str, *, timeout_s: float) -> Iterator[Any]:
        """The JSON documents of an answer that goes on, such as a watch; errors as with `get`."""
        with closing(self._connection(timeout_s)) as connection:
            connection.request("GET", path)
            for line in _accepted(connection.getresponse(), path):
                yield json.loads(line)

    def _connection(self, timeout_s: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self.host, self.port, context=self.tls, timeout=timeout_s)


def _accepted(answer: http.client.HTTPResponse, path: str) -> http.client.HTTPResponse:
    if answer.status != 200:
        said = answer.read(256).decode(errors="replace")
        raise LabError(f"GET {path}: {answer.status} {said}", remedy="see the API server's log")
    return answer
