"""A snapshot of etcd, taken on a host, verified, and fetched off it before anything is changed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from orchestrator.engine.host import demand
from orchestrator.engine.plan import Done, Needed
from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: To copy it.
FETCH_S = 600.0
#: Source: etcd server, `snapshot save`: the database, then the SHA-256 of all that.
_TRAILER_BYTES = 32
_PAGE_BYTES = 512
_DIRECTORY = "/var/lib/orchestrator"

# etcd's own programs, out of the running container: they write on the host, for only their root is looked through.
_SAVE = r"""set -u; umask 077
file=$1
pid=$(pidof -s etcd) || { echo "no etcd runs on this host" >&2; exit 3; }
bin="/proc/$pid/root/usr/local/bin"; [ -x "$bin/etcdctl" ] || bin="/proc/$pid/root/usr/bin"
pki=/etc/kubernetes/pki/etcd
mkdir -p -m 700 -- "$(dirname -- "$file")"; rm -f -- "$file" "$file.part"
"$bin/etcdctl" --endpoints=https://127.0.0.1:2379 --cacert="$pki/ca.crt" --cert="$pki/server.crt" \
  --key="$pki/server.key" snapshot save "$file" >&2 || exit
"$bin/etcdutl" snapshot status "$file" -w json
"""


def intact(path: Path) -> bool:
    """Whether a snapshot's contents are those that etcd signed with their hash."""
    size = path.stat().st_size
    if size <= _TRAILER_BYTES or size % _PAGE_BYTES != _TRAILER_BYTES:
        return False
    sha256, left = hashlib.sha256(), size - _TRAILER_BYTES
    with path.open("rb") as file:
        while left:
            piece = file.read(min(1 << 20, left))
            sha256.update(piece)
            left -= len(piece)
        return file.read() == sha256.digest()


class Snapshot:
    """`etcd.snapshot`: a snapshot of the cluster's etcd is here, off the host, and proven.

    Params: `plan`; `file`, its name here.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Whether it is here, and whole."""
        path = view.kept(step.params["file"])
        return {"path": str(path or ""), "intact": path is not None and intact(path)}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is."""
        del step, past
        return Done(f"verified: {now['path']}") if now["intact"] else Needed("none of this plan yet")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Save it on the host, have etcd judge it, fetch it, judge it here, and remove it there.

        Raises:
            CommandFailed: etcd did not save it.
            FactUnreadable: It is not whole.
        """
        del now
        run.guard()
        path = f"{_DIRECTORY}/{step.params['plan']}/{step.params['file']}"
        host, timeout_s = hands.host(step.node), step.timeout_s or FETCH_S
        done = host.run(["sh", "-c", _SAVE, "sh", path], timeout_s=timeout_s, repeatable=True)
        demand(host, done, remedy=f"see that etcd runs on {step.node} and /var has room")
        try:
            status = json.loads(done.stdout)
            keys, revision = int(status["totalKey"]), int(status["revision"])
        except (ValueError, KeyError, TypeError) as err:
            raise FactUnreadable(
                f"{step.node}: etcdutl's judgement of the snapshot cannot be read: {done.text[:120]!r}",
                remedy=f"run `etcdutl snapshot status` by hand on {step.node}",
            ) from err
        local = hands.keep(step.node, path, step.params["file"], timeout_s=FETCH_S)
        if not intact(local) or keys == 0:
            raise FactUnreadable(
                f"the snapshot of {step.node} is not whole ({local}, {keys} keys)",
                remedy="look at etcd's log there; resume takes another",
            )
        host.run(["rm", "-f", "--", path], timeout_s=30.0, repeatable=True)
        size_bytes = local.stat().st_size
        run.emit("etcd.snapshot", file=str(local), size_bytes=size_bytes, keys=keys, revision=revision)
