"""The packages of a node: fetched before they are wanted, their repository, and their installation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.actions.site import Errand
from orchestrator.cluster import packages, queries
from orchestrator.cluster.hostfacts import parse_look
from orchestrator.cluster.versions import Version, minor, parse
from orchestrator.engine.host import demand
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import CommandTimedOut, CommandVanished, FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.actions.site import Site, SiteHands, Trace
    from orchestrator.cluster.hostfacts import HostFacts
    from orchestrator.engine.host import Host
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

#: One file of a repository.
WRITE_S = 30.0
#: How long apt waits for a lock that somebody else holds, in seconds. Source: apt.conf(5), DPkg::Lock::Timeout: dpkg's
#: lock alone; for that of its lists it is asked again.
LOCK_WAIT_S = 300

# Whoever installs a held package loses its hold. Source: dpkg 1.21, seen: `apt-get install
# --allow-change-held-packages` leaves `install ok installed`. So holds are put back whatever happened,
# a timeout too. Source: dash(1), seen: a signal without a trap of its own ends it without the trap of EXIT.
INSTALL = r"""set -u
held=$1 sources=$2; shift 2
again() { [ -z "$held" ] || apt-mark hold $held; }
trap again EXIT; trap 'exit 143' HUP INT TERM
export DEBIAN_FRONTEND=noninteractive
if [ -n "$(dpkg --audit)" ]; then dpkg --configure -a || exit; fi
update() {
  n=0
  while :; do
    said=$(apt-get update -q -o Dir::Etc::sourcelist="$1" -o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 2>&1)
    rc=$?; echo "$said"
    case $said in *apt/lists/lock*) n=$((n + 5)) ;; *) return "$rc" ;; esac
    [ "$rc" != 0 ] && [ "$n" -lt LOCK_WAIT ] || return "$rc"
    sleep 5
  done
}
at_hand() {
  missing=$(apt-get install -y -qq --print-uris --allow-change-held-packages "$@" 2> /dev/null) && [ -z "$missing" ]
}
at_hand "$@" || for file in $sources; do update "$file" || exit; done
apt-get install -y -q --allow-change-held-packages -o DPkg::Lock::Timeout=LOCK_WAIT -o Dpkg::Use-Pty=0 \
  -o Dpkg::Options::=--force-confold "$@" || exit
""".replace("LOCK_WAIT", str(LOCK_WAIT_S))

# What a node will want is put where apt looks for it (debs) and where the runtime does (images); nothing is installed.
# A control plane's images are what kubeadm of the new version says; it is unpacked beside the installed one. Workers
# need none for it: kube-proxy's is pulled by its DaemonSet, while the node serves. Whatever the packages need beside
# themselves (cri-tools, kubernetes-cni) is fetched where their repository has it newer.
_PREFETCH = (
    queries.BESIDE
    + r"""
version=$2 images=$3; shift 3
beside apt-get update || exit
cd /var/cache/apt/archives || exit
needed=$(beside apt-get install -y -qq --print-uris --allow-change-held-packages "$@" 2> /dev/null |
  sed -n "s/^'[^']*' \([^_ ]*\)_\([^_ ]*\)_[^_ ]*\.deb .*/\1=\2/p" | grep -E '^(cri-tools|kubernetes-cni)=')
beside apt-get download "$@" $needed || exit
[ "$images" = yes ] || exit 0
dpkg-deb -x kubeadm_"${version#v}"-*.deb "$dir/new" || exit
ctr --namespace k8s.io images ls -q > "$dir/there" || exit
wanted "$version" > "$dir/wanted" || exit
if grep -vxF -f "$dir/there" "$dir/wanted"; then
  "$dir/new/usr/bin/kubeadm" config images pull --config "$dir/configuration.yaml" || exit
fi
"""
)


def target(step: Step) -> Version:
    """The version that a step leads to.

    Raises:
        FactUnreadable: The plan names none.
    """
    version = parse(step.params["version"])
    if version is None:
        raise FactUnreadable(f"the plan's version {step.params['version']!r} is none", remedy="start a new run")
    return version


def looked(site: Site, node: str) -> HostFacts:
    """What a node's host says of its versions and packages."""
    return parse_look(node, site.ask(node, queries.LOOK))


def pattern(version: Version) -> str:
    """Any package revision of a version, as apt takes it after a `=`."""
    return f"{str(version).removeprefix('v')}-*"


def standing(found: HostFacts, names: tuple[str, ...]) -> dict[str, Any]:
    """Installed versions, holds and what is unfinished, as JSON values."""
    mine = {name: found.packages[name] for name in names if name in found.packages}
    return {
        "installed": {name: str(p.version and replace(p.version, vendor="")) for name, p in mine.items()},
        "held": sorted(name for name, p in mine.items() if p.held),
        "whole": all(p.whole for p in mine.values()) and len(mine) == len(names),
        "unfinished": found.unfinished,
        "sources": [source.path for source in found.sources],
    }


def unfit(now: Facts, names: tuple[str, ...], version: Version, found_held: list[str]) -> str:
    """Why the packages are not as they should be; "" when they are."""
    there = {name: now["installed"].get(name, "not installed") for name in names}
    wrong = [f"{name} {found}" for name, found in there.items() if found != str(version)]
    if wrong:
        return f"{', '.join(wrong)}; wanted {version}"
    if not now["whole"]:
        return "half installed"
    lost = sorted(set(found_held) - set(now["held"]))
    return f"no longer held: {', '.join(lost)}" if lost else ""


def traced(view: Site, step: Step) -> Trace:
    """What became of the step's command, where it was started before."""
    return view.trace(step.node, Errand(step.params["plan"], step.id))


class Prefetch:
    """`packages.prefetch`: packages, and a control plane's images, are on the node before they are wanted.

    Params: `plan`, `version`, `packages`, `images` (a control plane's, too).
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """What is installed, and whether this plan fetched already."""
        found = looked(view, step.node)
        return {**standing(found, tuple(step.params["packages"])), "fetched": traced(view, step).succeeded}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it was fetched, or is installed already."""
        del past
        version = target(step)
        if not unfit(now, tuple(step.params["packages"]), version, []):
            return Done(f"{version} is installed")
        if now["fetched"]:
            return Done("fetched")
        if not now["sources"]:
            return _no_repository(step.node)
        return Needed(f"packages{' and images' if step.params['images'] else ''} of {version} to fetch")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Download beside the node's own lists; nothing is installed, no list of its own is changed."""
        del now
        version = target(step)
        run.guard()
        wanted = [f"{name}={pattern(version)}" for name in step.params["packages"]]
        words = [minor(version), str(version), "yes" if step.params["images"] else "no", *wanted]
        errand = Errand(step.params["plan"], step.id)
        argv = ["sh", "-c", _PREFETCH, "sh", *words]
        done = hands.finish(step.node, argv, errand, timeout_s=step.timeout_s or 0.0, waiting=waiting(run))
        demand(hands.host(step.node), done, remedy=f"see that {step.node} reaches its package repository and registry")


class Repository:
    """`packages.repository`: apt takes packages of Kubernetes from the repository of a minor version.

    The old file is kept beside it as `FILE.v1.36.bak`, which apt ignores.

    Params: `minor`, such as `1.37`.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """The minors that its source files name."""
        return {"sources": {s.path: list(s.minors) for s in looked(view, step.node).sources}}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when all of them name the minor."""
        del past
        if not now["sources"]:
            return _no_repository(step.node)
        others = sorted({m for minors in now["sources"].values() for m in minors} - {step.params["minor"]})
        if not others:
            return Done(f"of {step.params['minor']}")
        return Needed(f"of {', '.join(others)}; wanted {step.params['minor']}")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Write the files anew, each after a copy of it."""
        host, wanted = hands.host(step.node), step.params["minor"]
        for path in now["sources"]:
            # The file itself, not what was shown of it: there may be credentials in it.
            source = packages.source(path, host.read(path, timeout_s=WRITE_S).decode())
            if source is None or (text := packages.moved(source, wanted)) == source.text:
                continue
            run.guard()
            old, mode = f"{path}.v{'-'.join(source.minors)}.bak", _mode(host, path)
            host.write(old, source.text.encode(), mode=mode, owner="root:root", timeout_s=WRITE_S)
            host.write(path, text.encode(), mode=mode, owner="root:root", timeout_s=WRITE_S)
        hands.host(step.node)  # what it said before counts no more


class Install:
    """`packages.install`: packages at a version; held as they were found.

    Params: `plan`, `version`, `packages`.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """What is installed and held, and what became of the command."""
        found = standing(looked(view, step.node), tuple(step.params["packages"]))
        return {**found, "trace": traced(view, step).state}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when they are there, whole, and held as they were found."""
        found = past.get(step.id, now)
        why = unfit(now, tuple(step.params["packages"]), target(step), found["held"])
        return Needed(why) if why else Done(f"{target(step)} is installed")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Install, by a command that outlasts a cut connection."""
        run.guard()
        install(hands, step, now, run)


def waiting(run: Applying) -> Callable[[Exception, float], None]:
    """Tells of a host that does not answer while its command goes on, or went down with it."""

    def tell(err: Exception, pause_s: float) -> None:
        run.emit("retry.scheduled", level="warning", why=str(err), in_s=round(pause_s, 1))

    return tell


def install(
    hands: SiteHands, step: Step, now: Facts, run: Applying, *, script: str = INSTALL, remedy: str = ""
) -> None:
    """Install the step's packages and hold again what was found held, by `script`, which takes the words of INSTALL.

    Raises:
        CommandFailed: The script failed. Holds are back.
        CommandTimedOut: It hung, and was ended. Holds are back.
        CommandVanished: Its host went down.
    """
    wanted = [f"{name}={pattern(target(step))}" for name in step.params["packages"]]
    held = " ".join(run.before.get("held", now["held"]))
    argv = ["sh", "-c", script, "sh", held, " ".join(now["sources"]), *wanted]
    errand = Errand(step.params["plan"], step.id)
    # One that ran before and is over: where its goal is not reached, its result counts no more.
    anew = now["trace"] == "ended"
    try:
        done = hands.finish(step.node, argv, errand, timeout_s=step.timeout_s or 0.0, waiting=waiting(run), anew=anew)
    except (CommandTimedOut, CommandVanished) as err:
        err.remedy = f"see that {step.node} is up; then `orchestrator resume {run.run}`, which does it again"
        raise
    demand(
        hands.host(step.node),
        done,
        remedy=remedy or f"see `dpkg --audit`, `df -h` and `apt-get update` on {step.node}, then resume",
    )


def _mode(host: Host, path: str) -> int:
    """A file's rights: one with credentials is not made readable for others."""
    argv = ["stat", "-c", "%a", "--", path]
    return int(demand(host, host.run(argv, timeout_s=WRITE_S, repeatable=True)).text, 8)


def _no_repository(node: str) -> Blocked:
    return Blocked(
        f"{node}: no apt source file names a repository of Kubernetes packages (…/core:/stable:/v1.36/deb/)",
        f"add one on {node}: https://kubernetes.io/docs/tasks/administer-cluster/kubeadm/change-package-repository/",
    )
