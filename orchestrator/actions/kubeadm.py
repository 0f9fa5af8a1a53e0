"""A node's Kubernetes moved to a version: its control plane or settings by kubeadm, then its kubelet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.actions.drain import survey
from orchestrator.actions.hasten import HASTENED, RESTART
from orchestrator.actions.members import until_spared
from orchestrator.actions.packages import INSTALL, install, looked, standing, target, traced, unfit, waiting
from orchestrator.actions.patience import waited
from orchestrator.actions.site import Errand
from orchestrator.cluster import queries
from orchestrator.cluster.eviction import Outcome
from orchestrator.cluster.hostfacts import CONTROL_PLANE, STATIC, parse_static_pods
from orchestrator.cluster.kubeadm import BACKUPS, parse_progress
from orchestrator.cluster.versions import parse
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import CommandFailed, CommandTimedOut, CommandVanished, HostError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.cluster.hostfacts import HostFacts
    from orchestrator.cluster.versions import Version
    from orchestrator.engine.clock import Clock
    from orchestrator.engine.host import Completed
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: kubeadm's lines that say where it is.
_STAGES = "[upgrade"
#: How long the API's copies of static pods are waited for. Source: a kubelet syncs each pod at least that often.
MIRRORED_S = 120.0
#: How much of what kubeadm said last an error holds.
_SAID = 3


def servers(site: Site, control_planes: Iterable[str]) -> dict[str, str]:
    """Control plane -> the version of its API server, the older one of manifest and process; "" without one."""
    return {name: str(looked(site, name).server or "") for name in control_planes}


def versions(found: HostFacts) -> dict[str, Any]:
    """Static pods' versions, by manifest and by process, as JSON values."""
    return {
        "manifests": {name: str(m.version) for name, m in found.manifests.items() if name in STATIC},
        "components": {name: str(v) for name, v in found.components.items() if name in STATIC},
    }


class Upgrade:
    """`kubeadm.upgrade`: the node's static pods, or a worker's settings, are those of a version.

    Params: `plan`, `version`; `mode`: `apply` for the first control plane, else `node`; `accept`, names of kubeadm's
    checks that may fail; `options`, further ones for kubeadm; `control_planes`, all of them; `kubeadm`, the id of
    the step that installs it; `limit_s`, after which kubeadm is ended; `hasten`, spare the kubelet a wait that leads
    to nothing.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """Versions of kubeadm, manifests and processes there, of every API server, and what became of kubeadm."""
        found = looked(view, step.node)
        trace = traced(view, step)
        return {
            "control_plane": found.control_plane,
            "kubeadm": str(found.kubeadm or ""),
            "kubelet": {"installed": str(found.kubelet or ""), "running": str(found.running or "")},
            **versions(found),
            "servers": servers(view, step.params["control_planes"]),
            "trace": trace.state,
            "rc": trace.rc,
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked without its kubeadm, and where API servers would be too far apart, or behind a worker's."""
        del past
        version = target(step)
        ended = now["trace"] == "ended" and now["rc"] == 0
        if now["control_plane"]:
            late = behind(now, dict.fromkeys(CONTROL_PLANE, str(version)))
            # New static pods are not all of it: kubeadm that was started has to end, and well.
            if not late and (ended or (step.params["mode"] == "node" and now["trace"] == "absent")):
                return Done(f"static pods run {version}")
            what = f"{', '.join(late) or 'its settings'} to {version}"
        else:
            if ended or set(now["kubelet"].values()) == {str(version)}:
                return Done(f"settings are those of {version}")
            what = f"the kubelet's settings to those of {version}"
        if now["kubeadm"] != str(version) and now["trace"] != "running":
            return Blocked(
                f"{step.node}: kubeadm is {now['kubeadm'] or 'not installed'}, which cannot lead to {version}",
                f"install kubeadm {version} on {step.node}, or resume, which does it",
                until=step.params["kubeadm"],
                then=what,
            )
        return _skewed(now, step, version, what) or Needed(_again(now, what))

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Run kubeadm to its end, whatever the network does, and say what state things are in when it fails.

        Raises:
            CommandFailed: kubeadm failed.
            CommandTimedOut: It hung, and was ended.
            CommandVanished: Its host went down.
            Refused: It would restart a member of etcd that the others need.
        """
        if now["control_plane"] and now["trace"] != "running":
            until_spared(hands, step, now, run)
            waited(run, lambda: _unmirrored(hands, step.node), MIRRORED_S)
        run.guard()
        kubeadm = command(step)
        argv = kubeadm
        if now["control_plane"] and step.params["hasten"]:
            argv = ["sh", "-c", HASTENED, "sh", step.node, *kubeadm]
        lines: list[str] = []

        def heard(line: str) -> None:
            lines.append(line)
            if line.startswith(_STAGES):
                run.emit("kubeadm.said", line=line[:300])

        errand = Errand(step.params["plan"], step.id)
        timeout_s = step.params.get("limit_s") or step.timeout_s or 0.0
        try:
            done = hands.finish(
                step.node,
                argv,
                errand,
                timeout_s=timeout_s,
                anew=now["trace"] == "ended",
                on_line=heard,
                waiting=waiting(run),
            )
        except (CommandTimedOut, CommandVanished) as err:
            if isinstance(err, CommandTimedOut):
                err.add_note(f"kubeadm did not end within {timeout_s:g} s (--kubeadm-timeout), and was ended")
            err.add_note(state_of(hands, step.node, "\n".join(lines)))
            err.remedy = advice(step, run.run, control_plane=now["control_plane"])
            raise
        if done.rc:
            raise self._failed(hands, step, now, run, done)

    def _failed(self, hands: SiteHands, step: Step, now: Facts, run: Applying, done: Completed) -> CommandFailed:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        kept = [line for line in said if "[ERROR" in line or line.startswith("error:")] or said
        output = f"{done.stdout.decode(errors='replace')}\n{done.stderr.decode(errors='replace')}"
        words = " ".join(kept[-_SAID:]).strip()[:600]
        log = f"\nall that it said: {done.log}" if done.log else ""
        return CommandFailed(
            f"{step.node}: `{' '.join(command(step)[:3])}` ended with {done.rc}: {words}\n"
            + state_of(hands, step.node, output)
            + log,
            remedy=advice(step, run.run, control_plane=now["control_plane"]),
            rc=done.rc,
        )


def _unmirrored(site: Site, node: str) -> str:
    """Which static pods of a node the API does not have as they run; "" when it has, or it cannot be told.

    kubeadm takes the hash of a mirror pod before it replaces a manifest, and waits until that is another one. One of a
    manifest from before, back since by a `rollback`, may be just the one that comes: kubeadm waits in vain, for five
    minutes. Source: kubeadm 1.36, `apiclient.WaitForStaticPodHashChange`; seen.
    """
    try:
        stale = unmatched(site, node)
    except HostError:  # kubeadm tells what it lacks
        return ""
    return f"not of its manifest yet, here or in the API: {', '.join(stale)}" if stale else ""


def unmatched(site: Site, node: str) -> tuple[str, ...]:
    """Components that run as another pod than the node's kubelet, or the API, has them.

    Raises:
        HostError: The host could not be asked.
    """
    return parse_static_pods(site.ask(node, queries.STATIC_PODS, node))


def command(step: Step) -> list[str]:
    """The command line of kubeadm for a step."""
    accept = [f"--ignore-preflight-errors={','.join(step.params['accept'])}"] if step.params["accept"] else []
    if step.params["mode"] == "apply":
        return ["kubeadm", "upgrade", "apply", "--yes", *accept, *step.params["options"], str(target(step))]
    return ["kubeadm", "upgrade", "node", *accept, *step.params["options"]]


def state_of(site: Site, node: str, output: str) -> str:
    """In what state a node is: what kubeadm replaced and moved back, versions, and where the old is kept.

    Args:
        site: The node's.
        node: Its name.
        output: Of kubeadm; "" where it is not what failed.
    """
    progress = parse_progress(output)
    if progress.replaced:
        names = ", ".join(path.rpartition("/")[2] for path in progress.replaced)
        back = "and moved them back" if progress.recovered else "and did not move them back"
        # Source: kubeadm 1.36, `rollbackOldManifests`: where a component after it fails, the new etcd stays.
        if progress.recovered and "etcd.yaml" in names and len(progress.replaced) > 1:
            back += ", but for etcd.yaml"
        text = f"kubeadm replaced {names} {back}; copies: {', '.join(sorted(set(progress.replaced.values())))}"
    else:
        text = "kubeadm replaced no manifest"
    text = f"{text}\n" if output else ""
    try:
        found = versions(looked(site, node))
    except HostError as err:
        return f"{text}what {node} runs now is not known: {err}"
    now = "; ".join(_both(name, found) for name in STATIC if name in found["manifests"] or name in found["components"])
    return f"{text}now on {node}: {now or 'no static pods'}; kubeadm keeps copies in {BACKUPS}"


def _both(name: str, found: Mapping[str, Mapping[str, str]]) -> str:
    manifest, process = found["manifests"].get(name, "none"), found["components"].get(name, "does not run")
    return f"{name} {process}" if manifest.startswith(process) else f"{name} {process} (manifest {manifest})"


def advice(step: Step, run: str, *, control_plane: bool) -> str:
    """How to go on, and how to go back, after a step of an upgrade, or of a way back, failed."""
    only = control_plane and len(step.params.get("control_planes", ())) == 1
    alone = "; it alone works while the API is away, from this machine; else docs/upgrade.md, “By hand”" if only else ""
    rollback = f"orchestrator upgrade rollback {step.node}    # this control plane as it was before{alone}"
    lines = [f"orchestrator resume {run}    # looks again; what is not done yet is done again, with the same options"]
    if step.action == "kubeadm.rollback" or step.params.get("rollback"):
        if not step.params.get("without_api"):  # then it cordoned nothing
            lines.append(f"orchestrator release {run}    # what this run cordoned back into service, as it is")
        if only and not step.params.get("without_api"):
            lines.append(
                f"orchestrator upgrade rollback {step.node}    # anew, when no API server comes back: it needs none"
            )
        if only:
            lines.append(
                f"ls -d {BACKUPS}/kubeadm-backup-*    # on {step.node}, as root: what kubeadm kept; when no API server"
                " comes back, docs/upgrade.md, “By hand”, has the commands"
            )
    else:
        lines.append(
            f"orchestrator release {run} && orchestrator upgrade apply --to {str(target(step)).removeprefix('v')}    "
            "# with other options: --no-certificate-renewal, --patches DIR, --kubeadm-timeout 1h, --accept CHECK"
        )
        if control_plane:
            lines.append(rollback)
        lines.append(f"orchestrator release {run}    # only what this run cordoned back into service")
    return "\n".join(lines)


def behind(now: Facts, wanted: Mapping[str, str]) -> list[str]:
    """Components whose manifest or process is not of the version that is wanted of each, with what runs."""
    late = {*misfits(now["manifests"], wanted), *misfits(now["components"], wanted)}
    return [f"{name} {now['components'].get(name, 'not running')}" for name in wanted if name in late]


def misfits(found: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Components that are not of a version. A tag of etcd has a build number, which its process does not tell."""

    def is_it(name: str) -> bool:
        there, want = found.get(name, ""), wanted[name]
        return there == want or (name == "etcd" and there.partition("-")[0] == want.partition("-")[0])

    return [name for name in wanted if not is_it(name)]


def _again(now: Facts, what: str) -> str:
    return {
        "running": f"{what} (kubeadm runs already)",
        "vanished": f"{what} (kubeadm was cut short before)",
        "late": f"{what} (kubeadm hung before)",
        "ended": f"{what} (kubeadm failed before, with {now['rc']})" if now["rc"] else f"{what} (kubeadm ended well)",
    }.get(now["trace"], what)


def _skewed(now: Facts, step: Step, version: Version, what: str) -> Blocked | None:
    """A worker follows all API servers; API servers are within one minor of each other.

    Source: Kubernetes "Version Skew Policy"; `kubeadm upgrade node` takes its settings from the upgraded cluster.
    """
    for name, text in now["servers"].items():
        other = parse(text)
        if other is None:
            return Blocked(f"{name}: the version of its API server cannot be told", f"see why it is down on {name}")
        if now["control_plane"] and abs(other.minor - version.minor) > 1:
            return Blocked(
                f"{step.node}: to {version} while the API server of {name} is {other}: within one minor is allowed",
                f"bring {name} to a neighbouring minor first",
            )
        if not now["control_plane"] and other.line < version.line:
            return Blocked(
                f"{step.node}: to {version} while the API server of {name} is {other}: workers follow",
                f"upgrade {name} first",
                until=step.params.get("after", {}).get(name, ""),
                then=what,
            )
    return None


class Kubelet:
    """`kubelet.upgrade`: kubelet and kubectl of a version are installed, and that kubelet runs.

    Params: `plan`, `version`, `packages`; `control_planes`; `after`: control plane -> the step that upgrades it;
    `drain`: the params of the node's drain; `drained`: the id of that step.

    Args:
        clock: For judging pods by their age.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def probe(self, view: Site, step: Step) -> Facts:
        """Packages, the running kubelet, the API servers that it may ask, whether the node is drained."""
        found = looked(view, step.node)
        drain = step.params["drain"]
        left = survey(view, step.node, drain, self._clock.wall()).having(Outcome.EVICT)
        asked = (step.node,) if found.asks_itself else step.params["control_planes"]
        return {
            **standing(found, tuple(step.params["packages"])),
            "trace": traced(view, step).state,
            "running": str(found.running or ""),
            "replaced": found.replaced,
            "servers": servers(view, asked),
            "unschedulable": view.node(step.node).unschedulable,
            "left": [v.pod.key for v in left],
        }

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Never newer than an API server; never on a node that is not drained."""
        version, found = target(step), past.get(step.id, now)
        why = unfit(now, tuple(step.params["packages"]), version, found["held"])
        running = now["running"] == str(version) and not now["replaced"]
        if running and not why:
            return Done(f"{version} runs")
        what = f"kubelet {now['running'] or 'not running'} to {version}"
        for name, text in now["servers"].items():
            server = parse(text)
            if server is None or server.line < version.line:
                return Blocked(
                    f"{step.node}: a kubelet {version} would be newer than the API server of {name} ({text or '?'})",
                    f"upgrade {name} first: a kubelet is never newer than its API server",
                    until=step.params["after"].get(name, ""),
                    then=what,
                )
        return _undrained(now, step, what) or Needed(what)

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Install, hold again, restart: one command that outlasts a cut connection.

        Raises:
            CommandFailed: It failed.
            CommandTimedOut: It hung, and was ended.
            CommandVanished: Its host went down.
            Refused: It would restart a member of etcd that the others need.
        """
        if restarts(now, target(step)):
            until_spared(hands, step, now, run)
        run.guard()
        install(hands, step, now, run, script=INSTALL + RESTART)


def restarts(now: Facts, version: Version) -> bool:
    """Whether the kubelet's start restarts static pods: the first one with another minor does, see `actions.gates`."""
    running = parse(now["running"])
    return running is None or running.line != version.line


def _undrained(now: Facts, step: Step, what: str) -> Blocked | None:
    if not now["unschedulable"]:
        return Blocked(
            f"{step.node} takes new pods: somebody uncordoned it, or it was never cordoned",
            "resume: it is cordoned and drained again",
            until=step.params["drained"],
            then=what,
        )
    if now["left"]:
        return Blocked(
            f"{step.node} is not drained: {len(now['left'])} pods are on it, {', '.join(now['left'][:5])}",
            "resume: it is drained again",
            until=step.params["drained"],
            then=what,
        )
    return None
