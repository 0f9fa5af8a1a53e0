"""The frame in which a host answers a question, and a question itself. Pure.

Answers are sections: a line `@@NAME WORDS`, then lines, each behind a space, so that no content can look like a head.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Query:
    """One question.

    Attributes:
        name: For records and errors.
        script: For sh; its words are `$1`, `$2`, …
        timeout_s: It takes no longer.
    """

    name: str
    script: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Section:
    """One part of an answer.

    Attributes:
        words: Behind its name.
        text: Its lines.
    """

    words: tuple[str, ...]
    text: str


def sections(answer: str) -> dict[str, list[Section]]:
    """Name -> sections of that name, in order; what stands before the first head does not count."""
    found: dict[str, list[Section]] = {}
    name = ""
    words: tuple[str, ...] = ()
    lines: list[str] = []

    def close() -> None:
        if name:
            found.setdefault(name, []).append(Section(words, "\n".join(lines)))

    for line in answer.split("\n"):
        if line.startswith("@@"):
            close()
            name, *rest = line[2:].split() or [""]
            words, lines = tuple(rest), []
        elif line.startswith(" "):
            lines.append(line[1:])
    close()
    return found


FRAME = r"""set -u
head() { echo "@@$*"; }
body() { sed -e 's/^/ /' -e '$a\'; }
ask() { name=$1; shift; head "$name"; "$@" 2>/dev/null | body; }
"""

#: The directory on the host that a static pod of etcd has its data in, by its manifest; nothing where that says none.
#: Source: kubeadm's `etcd.yaml`: the hostPath of the volume `etcd-data`, path before name; probes and mounts, which
#: have paths and that name too, stand above the volumes.
DATA_OF = r"""
data_of() {
  awk '{ sub(/^ *(- )?/, "") } $1 == "path:" { path = $2 } $0 == "name: etcd-data" { at = path } END { print at }' "$1"
}
"""

#: This host's own API server, asked by its own address. Source: kubeadm's admin.conf may name a load balancer.
OWN_API = r"""
address=$(sed -n 's/.*--advertise-address=//p' /etc/kubernetes/manifests/kube-apiserver.yaml)
port=$(sed -n 's/.*--secure-port=//p' /etc/kubernetes/manifests/kube-apiserver.yaml)
own_api() {
  kubectl --kubeconfig=/etc/kubernetes/admin.conf --server="https://$address:${port:-6443}" "$@"
}
"""
