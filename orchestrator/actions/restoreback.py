"""A restore of etcd taken back: the old data in place again, with a revision above what clients have seen since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.actions.restore import PLACES, RAISE, OnHost, Stage, scripted
from orchestrator.engine.plan import Blocked, Done, Needed

if TYPE_CHECKING:
    from orchestrator.actions.site import Site, SiteHands
    from orchestrator.engine.plan import Decision, Facts, Past, Step
    from orchestrator.engine.runner import Applying

FETCH_S = 1800.0

# With a raised copy that takes the place, the old data as they were stay beside, and each move is known by what it
# leaves: the copy is there until it is in place. What an etcd has run on is kept, whoever started it; what is only a
# copy of the snapshot becomes again what it was, one that is staged, and goes.
_BACK = (
    PLACES
    + r"""
raised=$1 served=$2
none etcd kube-apiserver
if [ "$served" = no ] && [ -e "$stamp" ] && [ -z "$(find "${target:-$data}/member" -newer "$stamp" 2> /dev/null)" ]
then out=$stage; else out=$after; fi
in_place() {
  rm -f -- "$back/ready"
  if [ -n "$inside" ]; then over "$back" "$data"; rmdir -- "$back"; else mv -- "$back" "$data"; fi
}
if [ -n "$target" ]; then
  if [ -e "$kept" ]; then
    mkdir -p -m 700 "$aside"
    cp -p -- "$kept" "$kept.new"; sync; mv -- "$kept.new" "$aside/etcd.yaml"
    [ ! -e "$target" ] || { rm -rf -- "$out"; mv -- "$target" "$out"; }
    if [ "$raised" = yes ] && [ -e "$back" ]; then
      if [ -z "$inside" ]; then [ -e "$raw" ] || mv -- "$data" "$raw"; else
        mkdir -p "$raw"; [ -e "$raw/moved" ] || { over "$data" "$raw"; : > "$raw/moved"; }
      fi
      in_place
    fi
    rm -f -- "$kept"
  fi
elif [ -e "$before" ]; then
  if [ -z "$inside" ]; then
    if [ "$raised" != yes ] || [ -e "$back" ]; then
      [ ! -e "$data" ] || { rm -rf -- "$out"; mv -- "$data" "$out"; }
    fi
  elif [ -e "$before/moved" ]; then
    mkdir -p "$out"; over "$data" "$out"; rm -f -- "$before/moved"
  fi
  if [ "$raised" = yes ]; then
    [ ! -e "$back" ] || in_place
    mv -- "$before" "$raw"
  elif [ -z "$inside" ]; then mv -- "$before" "$data"; else over "$before" "$data"; rmdir -- "$before"; fi
fi
rm -rf -- "$stage" "$kept.new" "$stamp"
sync
"""
)

# Nothing of the restore is in place.
_CLEAR = PLACES + r"""rm -rf -- "$stage" "$kept.new" "$stamp"; rmdir -- "$aside" 2> /dev/null || true"""


class Kept(OnHost):
    """`restore.kept`: there is a way back: the old data are beside the restored ones, or in place again.

    Params: `of_run`; `snapshot`, whether the state before the restore was kept as one.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Blocked once they were deleted, or half of them, by whoever confirmed the restore from wherever."""
        del past
        if now["before"] and not now["forgotten"]:
            return Done("the old data are there")
        if now["released"] and not now["forgotten"]:
            return Done("the old data are in place again")
        kept = "the state before it is a snapshot, pre-restore in" if step.params["snapshot"] else "take another one of"
        return Blocked(
            f"{step.node}: the old data of {step.params['of_run']} were deleted: it cannot be taken back; nothing was "
            "changed",
            f"{kept} `orchestrator etcd list`: orchestrator etcd restore NAME",
        )

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Nothing: it is Done or Blocked."""


class Fetch(OnHost):
    """`restore.fetch`: the database of the old data is here, from one control plane, for all of them.

    Params: `file`, its name here.

    Source: etcd's documentation, "Disaster recovery": a copy of `member/snap/db` has no sum. What its log has and it
    has not are entries of the last 100 ms before a kill; etcd was stopped after its API servers.
    """

    def probe(self, view: Site, step: Step) -> Facts:
        """As all, and whether it is here."""
        return {**super().probe(view, step), "here": view.kept(step.params["file"]) is not None}

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is, or the old data are in place again already."""
        del step, past
        done = now["here"] or not now["before"]
        return Done("the old database is here") if done else Needed("fetch the old database, to raise its revision")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Fetch it."""
        run.guard()
        hands.keep(step.node, f"{now['old']}/member/snap/db", step.params["file"], timeout_s=FETCH_S)


class Raise(Stage):
    """`restore.raise`: a copy of the old data is beside them, with a revision above any that a client has seen.

    A client that watches from a revision that does not exist yet hears nothing until it does: with the old data as they
    were, kubelets and controllers would start and end nothing. Seen on kubelets of 1.36 after a release.

    Params: as `restore.stage`.
    """

    script = RAISE

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when it is, or the old data are in place again already."""
        del past
        if now["raised"] or not now["before"]:
            return Done("a raised copy is there" if now["raised"] else "there are no old data")
        return Needed(f"a copy of the old data with a raised revision beside {step.params['data']}")


class Back(OnHost):
    """`restore.back`: the old data are in place again.

    Params: `stopped`, the id of the step that stops etcd here, or ""; `raised`, whether a raised copy of them is;
    `served`, whether etcd was started on the restored ones.
    """

    def decide(self, now: Facts, step: Step, past: Past) -> Decision:
        """Done when nothing of the restore is left but what had served, which is beside."""
        del past
        if not now["before"] and not now["beside"]:
            return Done("the old data are in place")
        running = [n for n in ("etcd", "kube-apiserver") if n in now["processes"]]
        if now["before"] and running:
            return Blocked(
                f"{step.node}: {', '.join(running)} runs", "stop it, then resume", until=step.params["stopped"],
                then="put the old data back",
            )  # fmt: skip
        return Needed("put the old data back" if now["before"] else "remove the restored copy")

    def apply(self, hands: SiteHands, step: Step, now: Facts, run: Applying) -> None:
        """Rename back."""
        run.guard()
        if now["before"]:
            how = (step.params.get("raised", False), step.params.get("served", True))
            scripted(hands, step, _BACK, ["yes" if each else "no" for each in how])
        else:
            scripted(hands, step, _CLEAR, ())
