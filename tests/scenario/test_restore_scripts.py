"""What the steps of a restore do on a host: the real scripts, below a root of their own, killed at every call."""

import stat
from pathlib import Path

import pytest

from orchestrator.actions.restore import Forget, Stage, Start, Stop, Swap
from orchestrator.actions.restoreback import Back, Fetch, Kept, Raise
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.engine.runner import Applying
from orchestrator.errors import CommandFailed, FactUnreadable, HostError
from orchestrator.planners import restore
from orchestrator.planners.restore import Plane, Request
from tests.fakes.restorehost import MANIFEST, MOST, STATIC, RestoreHost
from tests.fakes.time import FakeClock

ACTIONS = {
    "restore.stage": Stage(), "restore.stop": Stop(), "restore.start": Start(), "restore.swap": Swap(),
    "restore.back": Back(), "restore.forget": Forget(), "restore.fetch": Fetch(), "restore.raise": Raise(),
    "restore.kept": Kept(),
}  # fmt: skip
PLAN = "restore-1"
TARGET = "/var/lib/new-etcd"
LAYOUTS = {"swap": {}, "mount point": {"mount": True}, "new path": {"target": TARGET}}


class Restored:
    """A host, and the plan of a restore of it."""

    def __init__(self, directory, *, mount=False, target="", hears=False):
        self.host = RestoreHost(directory, mount=mount)
        self.target = target
        (self.host.kept / "staging").mkdir(parents=True)
        (self.host.kept / "staging/x.db").write_bytes(b"new")
        plane = Plane("cp-1", "m1", "https://198.18.0.1:2380", "/var/lib/etcd", hears=hears)
        request = Request(PLAN, "prod", "staging/x.db", "prod-1", 1000, 1500, "t", "cp-1", target=target)
        self.plan = restore.restore([plane], request)
        self.host.bring_etcdutl(PLAN)

    def steps(self, until, *, back=False, past=()):
        plan = restore.back("run-1", self.plan, {key: {} for key in past}) if back else self.plan
        found = [s for s in plan.steps() if s.action in ACTIONS]
        return found[: next(n for n, s in enumerate(found) if s.action == until) + 1] if until else found

    def probe(self, step):
        """What the host says now, and not what it said a moment ago."""
        self.host.hands.host("cp-1")
        return ACTIONS[step.action].probe(self.host.hands, step)

    def decide(self, step):
        return ACTIONS[step.action].decide(self.probe(step), step, {"begun": {}})

    def apply(self, step, *, killed_at=0):
        """As the runner: a step that is Done is left, one that is Blocked does not begin. Whether it came to its end.

        With `killed_at` the script is killed by its call of that number; one with fewer comes to its end.
        """
        action, now = ACTIONS[step.action], self.probe(step)
        decision = action.decide(now, step, {"begun": {}})
        assert not isinstance(decision, Blocked), decision
        if isinstance(decision, Needed):
            if killed_at:
                self.host.kill_at(killed_at)
            try:
                action.apply(self.host.hands, step, now, applying(step))
            except HostError:
                if not killed_at:
                    raise
            if killed_at and self.host.heal() >= killed_at:
                return False
        assert isinstance(self.decide(step), Done), self.decide(step)
        return True

    def killed_at_each_call(self, step):
        """The numbers of a step's calls, the step killed by that one and the host as it was before each."""
        for call in self.host.again_and_again():
            over = self.apply(step, killed_at=call)
            yield call
            if over:
                break
        assert 1 < call < MOST - 1

    def do(self, steps):
        for step in steps:
            self.apply(step)

    def live(self):
        """What the etcd that runs there has, by the path that its manifest names."""
        text = (self.host.manifests / "etcd.yaml").read_text()
        path = next(line for line in text.splitlines() if "--data-dir=" in line).partition("=")[2]
        assert path in text.split("volumes:\n")[1]
        return Path(path) / "member/snap/db"


def applying(step):
    return Applying("run-1", step, None, FakeClock(), lambda *_, **__: None, lambda: None)


@pytest.fixture(params=LAYOUTS, ids=list(LAYOUTS))
def restored(request, tmp_path):
    return Restored(tmp_path, **LAYOUTS[request.param])


def forget_of(restored):
    return next(s for s in restore.confirm("run-1", restored.plan).steps() if s.action == "restore.forget")


# ---- there, and back --------------------------------------------------------------------------------------------


def test_etcd_runs_on_the_restored_data_afterwards_and_the_old_ones_are_kept(restored):
    restored.do(restored.steps(""))

    assert restored.live().read_text() == "new"
    assert sorted(p.name for p in restored.host.manifests.iterdir()) == [
        "etcd.yaml", "kube-apiserver.yaml", "kube-controller-manager.yaml", "kube-scheduler.yaml",
    ]  # fmt: skip
    assert "old" in restored.host.tree().values()
    assert not any("orchestrator-restore" in name or ".restore-" in name for name in restored.host.tree())


def test_the_restored_data_belong_to_whom_the_old_ones_did_and_nobody_else_reads_them(restored):
    restored.do(restored.steps(""))

    place = restored.live().parent.parent.parent
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_release_has_the_host_as_it_was_and_keeps_what_was_restored_and_the_old_data_as_they_were(restored):
    before = restored.host.tree()
    restored.do(restored.steps(""))

    everything = [s.id for s in restored.plan.steps()]
    restored.do(restored.steps("", back=True, past=everything))

    assert restored.live().read_text() == "old"
    after = restored.host.tree()
    assert {name: after[name] for name in before} == before
    assert [text for name, text in after.items() if "restored-" in name and text] == ["new"]
    assert [text for name, text in after.items() if "raw-" in name and text] == ["old"]
    assert not any("before-" in name or "back-" in name for name in after)


def test_the_old_data_come_back_out_of_one_database_with_a_raised_revision_while_the_restored_ones_serve(restored):
    restored.do(restored.steps(""))
    everything = [s.id for s in restored.plan.steps()]

    restored.do(restored.steps("restore.raise", back=True, past=everything))

    assert restored.live().read_text() == "new"
    raised = next(s for s in restored.steps("", back=True, past=everything) if s.action == "restore.raise")
    assert raised.params["bump"] == restore.RAISED
    assert restored.host.hands.kept(raised.params["file"]).read_text() == "old"


def test_what_was_only_restored_beside_is_removed_by_a_release(restored):
    before = set(restored.host.tree())
    steps = restored.steps("restore.stage")
    restored.do(steps)

    restored.do(restored.steps("", back=True, past=[s.id for s in steps]))

    assert set(restored.host.tree()) - before == {"var/lib/orchestrator/restore-1/snapshot.db"}
    assert restored.live().read_text() == "old"


def test_what_somebody_started_an_etcd_on_is_kept_whatever_the_run_knows(restored):
    steps = restored.steps("restore.swap")
    restored.do(steps)
    place = restored.host.root / TARGET[1:] if restored.target else restored.host.data
    (place / "member/snap/db").write_text("new+")

    restored.do(restored.steps("", back=True, past=[s.id for s in steps]))

    assert restored.live().read_text() == "old"
    assert [text for name, text in restored.host.tree().items() if "restored-" in name and text] == ["new+"]


def test_confirmed_the_old_data_are_gone_and_nothing_else_is(restored):
    restored.do(restored.steps(""))

    restored.apply(forget_of(restored))

    assert restored.live().read_text() == "new"
    assert "old" not in restored.host.tree().values()
    assert not any("before-" in name for name in restored.host.tree())


def test_confirmed_a_release_is_refused_before_it_touches_anything(restored):
    restored.do(restored.steps(""))
    restored.apply(forget_of(restored))
    before, told = restored.host.tree(), restored.host.told

    everything = [s.id for s in restored.plan.steps()]
    back = restored.steps("", back=True, past=everything)
    blocked = [(s.action, d) for s in back if isinstance(d := restored.decide(s), Blocked)]

    assert [action for action, _ in blocked] == ["restore.kept"] == [back[0].action]
    assert "the old data of run-1 were deleted" in blocked[0][1].why
    assert (restored.host.tree(), restored.host.told) == (before, told)


def test_released_twice_nothing_is_stopped_again(restored):
    restored.do(restored.steps(""))
    everything = [s.id for s in restored.plan.steps()]
    restored.do(restored.steps("", back=True, past=everything))
    before = restored.host.tree()

    again = restored.steps("", back=True, past=everything)

    assert [s.action for s in again if not isinstance(restored.decide(s), Done)] == []
    assert restored.host.tree() == before


# ---- a path of its own ------------------------------------------------------------------------------------------


def test_a_manifest_is_pointed_to_a_new_path_in_three_lines_and_no_other_byte(tmp_path):
    restored = Restored(tmp_path, target=TARGET)
    restored.do(restored.steps(""))

    host = restored.host
    there = (host.manifests / "etcd.yaml").read_text()
    new = f"{host.root}{TARGET}"
    assert there.splitlines() == [
        line.replace(str(host.data), new)
        if line.strip() in {f"- --data-dir={host.data}", f"- mountPath: {host.data}", f"path: {host.data}"}
        else line
        for line in host.manifest.splitlines()
    ]
    assert there.count(new) == 3
    assert stat.S_IMODE((host.manifests / "etcd.yaml").stat().st_mode) == 0o600
    kept = host.root / f"etc/kubernetes/etcd.yaml.before-{PLAN}"
    assert kept.read_text() == host.manifest


def test_a_manifest_that_names_its_data_otherwise_stops_it_before_anything_is_stopped(tmp_path):
    restored = Restored(tmp_path, target=TARGET)
    text = MANIFEST.format(data=restored.host.data, pki="/pki").replace(f"- mountPath: {restored.host.data}", "- x: y")
    (restored.host.manifests / "etcd.yaml").write_text(text)

    with pytest.raises(CommandFailed, match=r"etcd\.yaml does not name"):
        restored.do(restored.steps("restore.stage"))


def test_a_path_where_something_is_already_is_left_alone_by_the_restore_and_by_its_release(tmp_path):
    restored = Restored(tmp_path, target=TARGET)
    foreign = restored.host.root / TARGET.lstrip("/")
    foreign.mkdir(parents=True)
    (foreign / "theirs").write_text("precious")
    step = restored.steps("restore.stage")

    with pytest.raises(CommandFailed, match="there is something at"):
        restored.do(step)
    restored.do(restored.steps("", back=True, past=[s.id for s in step]))

    assert (foreign / "theirs").read_text() == "precious"


# ---- what forbids a step ----------------------------------------------------------------------------------------


def test_data_do_not_change_places_under_an_etcd(restored):
    restored.do(restored.steps("restore.stage"))
    [swap] = [s for s in restored.plan.steps() if s.action == "restore.swap"]

    assert isinstance(restored.decide(swap), Blocked)
    with pytest.raises(CommandFailed, match="etcd runs"):
        ACTIONS["restore.swap"].apply(restored.host.hands, swap, {}, applying(swap))
    assert restored.live().read_text() == "old"


def test_old_data_stay_while_etcd_does_not_run(restored):
    restored.do(restored.steps(""))
    (restored.host.manifests / "etcd.yaml").rename(restored.host.root / "run/etcd.yaml")

    decision = restored.decide(forget_of(restored))

    assert isinstance(decision, Blocked)
    assert "does not run on the restored data" in decision.why


def test_old_data_stay_while_the_manifest_names_them(tmp_path):
    restored = Restored(tmp_path, target=TARGET)
    restored.do(restored.steps(""))
    (restored.host.manifests / "etcd.yaml").write_text(restored.host.manifest)

    assert isinstance(restored.decide(forget_of(restored)), Blocked)


def test_a_snapshot_that_etcd_refuses_leaves_the_host_as_it_is(restored):
    restored.host.spoil()
    before = restored.host.tree()

    with pytest.raises(CommandFailed, match="snapshot file is corrupt"):
        restored.do(restored.steps("restore.stage"))

    after = restored.host.tree()
    assert {name: after[name] for name in before} == before
    assert not isinstance(restored.decide(restored.steps("restore.stage")[0]), Done)


def test_a_snapshot_that_is_not_here_any_more_is_no_way_on(restored):
    (restored.host.kept / "staging/x.db").unlink()

    with pytest.raises(FactUnreadable, match="not here any more"):
        restored.do(restored.steps("restore.stage"))


def test_an_answer_that_breaks_off_is_not_read(tmp_path):
    restored = Restored(tmp_path)
    (restored.host.root / "bin/mountpoint").write_text("#!/bin/sh\nkill -9 $PPID\n")

    with pytest.raises((FactUnreadable, CommandFailed)):
        restored.decide(restored.steps("restore.stage")[0])


@pytest.mark.parametrize("name", ["kube-apiserver", "etcd"])
def test_a_process_that_does_not_end_is_killed(tmp_path, name):
    restored = Restored(tmp_path)
    restored.host.stubborn(name)

    restored.do(s for s in restored.steps("restore.swap") if s.action in ("restore.stage", "restore.stop"))

    assert (restored.host.root / "run/killed").exists()


@pytest.mark.parametrize(("name", "restarted"), [("etcd", True), ("coredns", False)])
def test_a_kubelet_that_backs_off_from_what_is_to_start_is_restarted_once(tmp_path, name, restarted):
    restored = Restored(tmp_path)
    *before, start = restored.steps("restore.start")
    restored.do(before)
    restored.host.backs_off(name)
    told = len(restored.host.told)

    if restarted:
        restored.apply(start)
    else:
        with pytest.raises(CommandFailed, match="etcd does not start"):
            restored.apply(start)

    assert restored.host.told[told:] == ["start kubelet", *(["restart kubelet"] if restarted else [])]


def test_while_static_pods_are_ended_no_kubelet_starts_them_again(tmp_path):
    restored = Restored(tmp_path)
    steps = restored.steps("restore.start")
    last = max(n for n, step in enumerate(steps) if step.action == "restore.stop")
    restored.do(steps[: last + 1])

    assert restored.host.told == ["stop kubelet", "stop kubelet", "start kubelet"]
    assert not list(restored.host.manifests.iterdir())


def test_a_kubelet_that_ends_static_pods_by_itself_goes_on(tmp_path):
    restored = Restored(tmp_path, hears=True)
    steps = restored.steps("restore.start")
    last = max(n for n, step in enumerate(steps) if step.action == "restore.stop")
    restored.do(steps[: last + 1])

    assert restored.host.told == []
    assert not list(restored.host.manifests.iterdir())


@pytest.mark.matrix
def test_a_stop_that_is_cut_short_anywhere_leaves_no_kubelet_stopped_once_it_is_released(tmp_path):
    reference = Restored(tmp_path / "0")
    [*before, stop] = reference.steps("restore.stop")[: len(reference.steps("restore.stop"))]
    for call in range(1, MOST):
        restored = Restored(tmp_path / str(call))
        restored.do(before)
        if restored.apply(stop, killed_at=call):
            break
        past = [step.id for step in [*before, stop]]
        restored.do(restored.steps("", back=True, past=past))

        assert not (restored.host.root / "run/halted").exists(), call
        assert sorted(path.stem for path in restored.host.manifests.iterdir()) == sorted(STATIC), call
    assert call > 2


# ---- killed in the middle ---------------------------------------------------------------------------------------

MOVES = [
    ("restore.stage", "new path"), ("restore.stop", "swap"), ("restore.start", "swap"),
    *(("restore.swap", layout) for layout in LAYOUTS),
]  # fmt: skip


@pytest.mark.matrix
@pytest.mark.parametrize(("action", "layout"), MOVES)
def test_killed_at_any_call_a_step_is_done_again_and_comes_to_the_same(tmp_path, layout, action):
    reference = Restored(tmp_path / "0", **LAYOUTS[layout])
    reference.do(reference.steps(action))

    restored = Restored(tmp_path / "1", **LAYOUTS[layout])
    *before, step = restored.steps(action)
    restored.do(before)
    for call in restored.killed_at_each_call(step):
        restored.apply(step)
        assert _names(restored) == _names(reference), call


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_any_call_a_release_is_done_again_and_comes_to_the_same(tmp_path, layout):
    restored = Restored(tmp_path, **LAYOUTS[layout])
    restored.do(restored.steps(""))
    everything = [s.id for s in restored.plan.steps()]
    *before, step = restored.steps("restore.back", back=True, past=everything)
    restored.do(before)
    for call in restored.killed_at_each_call(step):
        restored.do(restored.steps("", back=True, past=everything)[len(before) :])
        assert restored.live().read_text() == "old", call
        assert (restored.host.manifests / "etcd.yaml").read_text() == restored.host.manifest


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_any_call_a_confirmation_goes_on_and_leaves_no_way_back_into_half_of_the_old_data(tmp_path, layout):
    restored = Restored(tmp_path, **LAYOUTS[layout])
    restored.do(restored.steps(""))
    everything = [s.id for s in restored.plan.steps()]
    kept = restored.steps("restore.kept", back=True, past=everything)[0]
    forget = forget_of(restored)
    for call in restored.killed_at_each_call(forget):
        whole = (restored.host.tree(), restored.decide(kept))
        assert isinstance(whole[1], Blocked) or "old" in whole[0].values(), call
        restored.apply(forget)
        assert isinstance(restored.decide(kept), Blocked), call
        assert leftovers(restored) == [], call


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("action", ["restore.stage", "restore.swap"])
def test_killed_before_etcd_is_started_a_release_finds_the_way_back_and_leaves_nothing(tmp_path, layout, action):
    restored = Restored(tmp_path, **LAYOUTS[layout])
    steps = restored.steps(action)
    restored.do(steps[:-1])
    for call in restored.killed_at_each_call(steps[-1]):
        restored.do(restored.steps("", back=True, past=[s.id for s in steps]))

        assert restored.live().read_text() == "old", call
        assert (restored.host.manifests / "etcd.yaml").read_text() == restored.host.manifest
        assert leftovers(restored) == [], call


@pytest.mark.matrix
@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_any_call_a_release_removes_what_etcd_never_ran_on(tmp_path, layout):
    restored = Restored(tmp_path, **LAYOUTS[layout])
    steps = restored.steps("restore.swap")
    restored.do(steps)
    *before, step = restored.steps("restore.back", back=True, past=[s.id for s in steps])
    restored.do(before)
    for call in restored.killed_at_each_call(step):
        restored.apply(step)

        assert leftovers(restored) == [], call
        assert (restored.host.data / "member/snap/db").read_text() == "old", call


def leftovers(restored):
    """What a restore left beside the data, old or new."""
    kinds = ("before-", ".restore-", "restored-", "swapped-", "deleted-")
    return [n for n in restored.host.tree() if any(each in n for each in kinds)]


def _names(restored):
    """The tree, with paths as they are below the root; what the plan has to itself is tidied up by another step."""
    root, own = str(restored.host.root), f"var/lib/orchestrator/{PLAN}"
    found = restored.host.tree()
    return {name: text and text.replace(root, "") for name, text in found.items() if not name.startswith(own)}
