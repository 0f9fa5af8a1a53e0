"""Progress for people, on stderr: plain lines, each one saying what happened to which node."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.engine.events import Event


def _step_started(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: {verb(f['action'])}"


def _step_finished(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: {verb(f['action'])}: done in {f['took_s']:.1f} s"


def _step_skipped(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: {verb(f['action'])}: nothing to do, {f['why']}"


def _retry(f: Mapping[str, Any]) -> str:
    return f"{f['why']}; trying again in {f['in_s']} s"


def _taken_over(f: Mapping[str, Any]) -> str:
    return f"took the cluster's run lock over from {f['holder']} (run {f['from_run']}), which no longer renews it"


def _lost(f: Mapping[str, Any]) -> str:
    return f"lost the cluster's run lock: {f['why']}"


def _in_doubt(f: Mapping[str, Any]) -> str:
    return (
        f"the cluster's run lock could not be renewed for {f['for_s']} s: nothing is changed until the API server "
        "answers again"
    )


def _kept(f: Mapping[str, Any]) -> str:
    return f"the cluster's run lock could not be given back: {f['why']}; others can take it over in {f['until_s']} s"


#: What a drain can do without, in words.
_WITHOUT = {
    "watch.budgets": "watching the budgets",
    "explain": "knowing which pods of a budget are not ready",
}


def _degraded(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: goes on without {_WITHOUT.get(f['what'], f['what'])}: {f['why']}"


#: How many names a line of progress holds: the rest is in the JSON events.
NAMES = 2


def progress_line(f: Mapping[str, Any]) -> str:
    """One line on how an evacuation stands: `37 of 50 pods gone, 8 terminating (22 s of grace left)`."""
    head = f"{f['total'] - f['left']} of {f['total']} pods gone"
    if f["leaving"]:
        grace = "" if f["grace_left_s"] is None else f" ({f['grace_left_s']} s of grace left)"
        head += f", {f['leaving']} terminating{grace}"
    return "; ".join([head, *(waiting_line(w) for w in f["waiting"])])


def waiting_line(w: Mapping[str, Any]) -> str:
    """What some of the pods wait for: `13 wait for 24 s: budget default/web allows 0 …`."""
    since = f" for {w['for_s']} s" if w["for_s"] >= 2 else ""
    verb_ = "waits" if w["count"] == 1 else "wait"
    names = w["pods"][:NAMES]
    more = f" and {w['count'] - len(names)} more" if w["count"] > len(names) else ""
    named = f" ({', '.join(names)}{more})" if w["budget"] else ""
    return f"{w['count']} {verb_}{since}: {w['why']}{named}"


def _unseen(f: Mapping[str, Any]) -> str:
    return f"the cluster's run lock cannot be had ({f['why']}): see that nobody else begins a run meanwhile"


def _progress(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: {progress_line(f)}"


def _said(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: kubeadm: {f['line']}"


def _gate(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: waits: {f['why']}"


def _snapshot(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: snapshot verified: {f['file']} ({f['size_bytes'] / 1e6:.1f} MB, {f['keys']} keys)"


def _recovery(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: what new machines need, encrypted: {f['file']} ({f['size_bytes'] / 1e6:.1f} MB)"


def _stored(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: stored and read back: {f['file']} at {f['destination']} ({f['size_bytes'] / 1e6:.1f} MB)"


def _removed(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: removed {f['snapshot']} from {f['destination']}: {f['why']}"


def _defragmented(f: Mapping[str, Any]) -> str:
    after = "it does not answer yet" if f["after_bytes"] is None else f"{f['after_bytes'] / 1e6:.1f} MB"
    return f"{f['node']}: database of {f['before_bytes'] / 1e6:.1f} MB rewritten: {after}"


def _reserved(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: WARNING: {f['why']}"


def _silent(f: Mapping[str, Any]) -> str:
    return f"{f['node']}: {f['why']}"


LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "step.started": _step_started,
    "step.finished": _step_finished,
    "step.skipped": _step_skipped,
    "retry.scheduled": _retry,
    "lease.taken_over": _taken_over,
    "lease.lost": _lost,
    "lease.in_doubt": _in_doubt,
    "lease.kept": _kept,
    "lease.unseen": _unseen,
    "drain.progress": _progress,
    "drain.degraded": _degraded,
    "kubeadm.said": _said,
    "gate.waiting": _gate,
    "etcd.waiting": _gate,
    "etcd.snapshot": _snapshot,
    "etcd.recovery": _recovery,
    "etcd.stored": _stored,
    "etcd.removed": _removed,
    "etcd.defragmented": _defragmented,
    "etcd.reserved": _reserved,
    "rebuild.silent": _silent,
}

_VERBS = {
    "node.cordon": "cordon",
    "node.uncordon": "uncordon",
    "node.drain": "drain",
    "node.restore_scheduling": "put back as found",
    "node.return": "back into service",
    "etcd.snapshot": "snapshot of etcd",
    "etcd.recovery": "what new machines need",
    "etcd.store": "store the snapshot",
    "etcd.complete": "tell what new machines would lack",
    "etcd.retain": "remove old snapshots",
    "etcd.supersede": "clear away what earlier runs left",
    "etcd.unstage": "clear away what was made on the way",
    "etcd.defragment": "defragment etcd",
    "etcd.compact": "compact etcd",
    "etcd.disarm": "disarm etcd's alarms",
    "restore.stage": "restore beside the live data",
    "restore.stop": "stop static pods",
    "restore.swap": "put the restored data in place",
    "restore.start": "start static pods",
    "restore.quorum": "wait for all members",
    "restore.kept": "look for the old data",
    "restore.fetch": "fetch the old database",
    "restore.raise": "raise the revision of the old data beside",
    "restore.back": "put the old data in place",
    "restore.forget": "delete the old data",
    "member.stop": "stop static pods",
    "member.aside": "set the old data aside",
    "member.remove": "take the old member out",
    "member.add": "add a learner",
    "member.manifest": "etcd.yaml",
    "member.start": "start static pods",
    "member.promote": "give the new member its vote",
    "member.quorum": "wait for all members",
    "member.listed": "look who is a member",
    "member.back": "put the old data in place",
    "member.return": "start static pods",
    "member.forget": "delete the old data",
    "restore.datadir": "tell kubeadm where etcd's data are",
    "restore.compare": "compare the old state with the restored one",
    "rebuild.bring": "bring the recovery set and the snapshot",
    "rebuild.place": "files, certificates, kubeconfigs",
    "rebuild.data": "restore etcd's data",
    "rebuild.kubelet": "start the kubelet",
    "rebuild.finish": "the kubelet's own certificate",
    "rebuild.nodes": "wait for kubelets",
    "rebuild.undo": "take away what was put there",
    "packages.prefetch": "fetch packages and images",
    "packages.repository": "package repository",
    "packages.install": "install kubeadm",
    "kubeadm.upgrade": "kubeadm upgrade",
    "kubeadm.rollback": "put static pods back",
    "kubeadm.settings": "kubeadm's settings",
    "packages.downgrade": "install earlier packages",
    "kubelet.upgrade": "kubelet and kubectl",
    "cluster.note": "note what runs",
    "cluster.gate": "gate",
    "run.pause": "pause",
    "hook.run": "hook",
    "host.tidy": "tidy up",
}


def verb(action: str) -> str:
    """An action's name for people."""
    return _VERBS.get(action, action)


class Lines:
    """A sink of plain lines. What repeats itself is shown once.

    Args:
        stream: Where to; a terminal gets the same lines.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last = ""

    def emit(self, event: Event) -> None:
        """Show `event`, if people want to see its kind."""
        line = line_of(event)
        with self._lock:
            if line and line != self._last:
                self._last = line
                self.write(line)

    def write(self, line: str) -> None:
        """Show one line; a stream that is gone must not stop the run."""
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._last = line


def line_of(event: Event) -> str:
    """The line for `event`; empty for those that people need not see."""
    render = LINES.get(event.name)
    return render(event.fields) if render else ""
