"""What each action of an upgrade finds, decides and does, on a cluster with hosts in memory."""

import subprocess

import pytest

from orchestrator.actions.runs import CLEAR
from orchestrator.actions.snapshots import recorded
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.errors import CommandFailed, CommandVanished, FactUnreadable, Paused, SnapshotInvalid
from orchestrator.planners.upgrade import Hook
from tests.fakes.site_machines import LIST, FakePackage
from tests.fakes.site_world import SiteWorld
from tests.fakes.stage import Stage, installed, moved

OLD, TO = "1.36.3", "1.37.2"
DEB822 = b"""\
Types: deb
URIs: http://198.18.0.1:8089/core:/stable:/v1.36/deb/
Suites: /
"""


@pytest.fixture
def world(tmp_path):
    made = SiteWorld(tmp_path / "world")
    yield made
    assert made.site.rules.broken == []


# ---- etcd.snapshot ----------------------------------------------------------------------------------------------


def test_a_snapshot_is_here_proven_and_no_longer_there(world):
    stage = Stage(world, "etcd.snapshot", "cp-1")
    assert stage.decide() == Needed("none of this plan yet")

    found = stage.apply()

    path = world.site.kept / "upgrade-1-v1.37.2.db"
    assert found == Done(f"verified: {path}")
    assert [path for path in world.machine("cp-1").files if path.endswith(".db")] == []
    told = {"file": str(path), "size_bytes": path.stat().st_size, "keys": 3, "revision": world.site.revision}
    assert stage.events == [("etcd.snapshot", told)]
    assert recorded(path).reason == "pre-upgrade"


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("refuses", CommandFailed, "no etcd runs on this host"),
        ("damaged", SnapshotInvalid, "was changed: SHA-256"),
        ("truncated", SnapshotInvalid, "was changed: SHA-256"),
        ("empty", FactUnreadable, "the snapshot of cp-1 has no keys"),
    ],
)
def test_a_snapshot_that_is_not_whole_is_none(world, fault, kind, text):
    stage = Stage(world, "etcd.snapshot", "cp-1")
    world.machine("cp-1").faults["snapshot"] = fault

    with pytest.raises(kind, match=text):
        stage.apply()

    assert isinstance(stage.decide(), Needed)
    world.machine("cp-1").faults.clear()
    assert isinstance(stage.apply(), Done)


@pytest.mark.parametrize("contents", [b"", b"x" * 32, b"x" * 512, b"x" * 544])
def test_a_file_that_is_no_snapshot_is_not_taken_for_one(world, contents):
    world.site.kept.mkdir()
    (world.site.kept / "upgrade-1-v1.37.2.db").write_bytes(contents)

    assert isinstance(Stage(world, "etcd.snapshot", "cp-1").decide(), Needed)


# ---- packages.prefetch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("node", "what"), [("cp-1", "packages and images"), ("node-1", "packages")])
def test_what_a_node_will_want_is_fetched_and_nothing_is_installed(world, node, what):
    stage = Stage(world, "packages.prefetch", node)
    assert stage.decide() == Needed(f"{what} of v1.37.2 to fetch")

    assert stage.apply() == Done("fetched")

    machine = world.machine(node)
    assert machine.fetched == {"v1.37.2"}
    assert {p.version for p in machine.packages.values()} == {OLD}
    assert list(machine.files) == [LIST]


def test_what_is_installed_need_not_be_fetched(world):
    installed(world, "node-1", TO)
    assert Stage(world, "packages.prefetch", "node-1").decide() == Done("v1.37.2 is installed")


def test_what_is_installed_in_part_is_fetched(world):
    installed(world, "node-1", TO, "kubeadm")
    assert isinstance(Stage(world, "packages.prefetch", "node-1").decide(), Needed)


def test_nothing_can_be_fetched_without_a_repository(world):
    world.machine("node-1").files = {"/etc/apt/sources.list": b"deb http://deb.debian.org/debian bookworm main\n"}

    found = Stage(world, "packages.prefetch", "node-1").decide()

    assert isinstance(found, Blocked)
    assert found.why.startswith("node-1: no apt source file names a repository of Kubernetes packages")


def test_what_is_not_offered_is_not_fetched(world):
    stage = Stage(world, "packages.prefetch", "node-1")
    world.machine("node-1").offers["1.37"] = ("1.37.1",)

    with pytest.raises(CommandFailed, match=r"node-1: .*Can't find version v1\.37\.2") as caught:
        stage.apply()

    assert "node-1 reaches its package repository" in caught.value.remedy
    assert isinstance(stage.decide(), Needed)


# ---- packages.repository ----------------------------------------------------------------------------------------


def test_a_repository_is_moved_with_a_copy_of_each_file_beside_it(world):
    machine, other = world.machine("node-1"), "/etc/apt/sources.list.d/more.sources"
    debian = {"/etc/apt/sources.list": b"deb http://deb.debian.org/debian bookworm main\n"}
    machine.files |= {other: DEB822, **debian}
    before = dict(machine.files)
    stage = Stage(world, "packages.repository", "node-1")
    assert stage.decide() == Needed("of 1.36; wanted 1.37")

    assert stage.apply() == Done("of 1.37")

    assert machine.files == {
        **debian,
        **{path: before[path].replace(b"v1.36", b"v1.37") for path in (LIST, other)},
        **{f"{path}.v1.36.bak": before[path] for path in (LIST, other)},
    }
    assert set(machine.modes.values()) == {(0o644, "root:root")}


def test_a_repository_that_is_there_already_is_not_written(world):
    machine = world.machine("node-1")
    machine.files[LIST] = machine.files[LIST].replace(b"v1.36", b"v1.37")
    stage = Stage(world, "packages.repository", "node-1")

    assert stage.decide() == Done("of 1.37")
    stage.apply()

    assert stage.life.effects == []


def test_only_the_file_that_names_another_minor_is_written(world):
    machine, other = world.machine("node-1"), "/etc/apt/sources.list.d/more.sources"
    machine.files[other] = DEB822.replace(b"v1.36", b"v1.37")
    stage = Stage(world, "packages.repository", "node-1")

    assert isinstance(stage.apply(), Done)

    assert f"{other}.v1.36.bak" not in machine.files
    assert f"{other}.v1.37.bak" not in machine.files


def test_a_node_without_a_repository_cannot_have_it_moved(world):
    world.machine("node-1").files.clear()
    assert isinstance(Stage(world, "packages.repository", "node-1").decide(), Blocked)


# ---- packages.install -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [True, False])
def test_a_package_is_installed_and_held_as_it_was_found(world, held):
    moved(world, "node-1")
    world.machine("node-1").packages["kubeadm"].held = held
    stage = Stage(world, "packages.install", "node-1")
    assert stage.decide() == Needed("kubeadm v1.36.3; wanted v1.37.2")

    assert stage.apply() == Done("v1.37.2 is installed")

    assert world.machine("node-1").packages["kubeadm"] == FakePackage(TO, held=held)
    assert world.machine("node-1").packages["kubelet"] == FakePackage(OLD, held=True)


@pytest.mark.parametrize(
    ("package", "decision"),
    [
        (FakePackage(TO), Done("v1.37.2 is installed")),
        (FakePackage(TO, state="ok unpacked"), Needed("half installed")),
        (FakePackage(OLD), Needed("kubeadm v1.36.3; wanted v1.37.2")),
        (FakePackage("1.38.1"), Needed("kubeadm v1.38.1; wanted v1.37.2")),
        (None, Needed("kubeadm not installed; wanted v1.37.2")),
    ],
)
def test_a_package_is_wanted_whole_and_at_the_version(world, package, decision):
    stage = Stage(world, "packages.install", "node-1")
    world.machine("node-1").packages["kubeadm"] = package
    if package is None:
        now = {"installed": {}, "held": [], "whole": False, "unfinished": "", "sources": [], "trace": "absent"}
        assert stage.doing.decide(now, stage.step, {}) == decision
        return
    assert stage.decide() == decision


@pytest.mark.parametrize("fault", ["refuses", "lock", "disk"])
def test_a_hold_is_put_back_though_the_installation_failed(world, fault):
    moved(world, "node-1")
    stage = Stage(world, "packages.install", "node-1")
    world.machine("node-1").faults["apt"] = fault

    with pytest.raises(CommandFailed, match="node-1") as caught:
        stage.apply()

    assert world.machine("node-1").packages["kubeadm"].held
    assert "dpkg --audit" in caught.value.remedy
    world.machine("node-1").faults.clear()
    assert isinstance(stage.apply(), Done)
    assert world.machine("node-1").packages["kubeadm"] == FakePackage(TO)


def test_a_hold_that_was_found_and_lost_with_the_hosts_power_is_put_back(world):
    """The journal has what was found: by now nothing on the host tells of it."""
    moved(world, "node-1")
    machine, stage = world.machine("node-1"), Stage(world, "packages.install", "node-1")
    world.site.after(3.5, machine.power_off)
    world.site.after(30.0, machine.power_on)
    with pytest.raises(CommandVanished):
        stage.apply()
    assert not machine.packages["kubeadm"].held
    stage.restart()
    assert stage.decide() == Needed("no longer held: kubeadm")

    assert isinstance(stage.apply(), Done)

    assert machine.packages["kubeadm"] == FakePackage(TO, held=True)


def test_a_package_that_is_not_offered_is_not_installed(world):
    """The repository was not moved: it has only what it had."""
    stage = Stage(world, "packages.install", "node-1")

    with pytest.raises(CommandFailed, match="Version for 'kubeadm' was not found"):
        stage.apply()

    assert world.machine("node-1").packages["kubeadm"] == FakePackage(OLD)


# ---- node.return ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "now", "decision"),
    [
        (False, {"owner": "ann@laptop"}, Needed("back into service")),
        (False, {"owner": None}, Needed("back into service")),
        (False, None, Done("takes new pods")),
        (True, {"owner": "bob@desk"}, Done("was cordoned before, and stays so")),
        (True, {"owner": "ann@laptop"}, Done("was cordoned before, and stays so")),
        (None, {"owner": "ann@laptop"}, Done("was cordoned before, and stays so")),
        (False, {"owner": "bob@desk"}, Done("left alone: cordoned by bob@desk (disk) since")),
        (None, None, Blocked("not cordoned yet", "resume", "3/node-1/node.cordon", "back into service")),
    ],
)
def test_a_node_goes_back_into_service_only_if_this_run_took_it_out(world, found, now, decision):
    stage = Stage(world, "node.return", "node-1")
    past = {} if found is None else {stage.step.params["cordon"]: {"unschedulable": found}}
    facts = {"unschedulable": now is not None, "reason": "disk", "run": "run-1", **(now or {"owner": None})}

    assert stage.doing.decide(facts, stage.step, past) == decision


# ---- run.pause, hook.run, host.tidy -----------------------------------------------------------------------------


def test_a_run_pauses_once(world):
    stage = Stage(world, "run.pause", "node-1", request={"pause_after": "first-worker"})
    assert stage.decide() == Needed("stops here: after the first worker")

    with pytest.raises(Paused, match="run run-1 pauses as asked: after the first worker") as caught:
        stage.apply()

    assert caught.value.remedy == "orchestrator resume run-1"
    assert isinstance(stage.decide(), Needed)
    stage.restart()
    assert stage.decide() == Done("resumed")


@pytest.mark.parametrize(("on_node", "where"), [(False, "laptop"), (True, "node-1")])
def test_a_hook_is_told_its_node_and_its_run(world, on_node, where):
    hook = Hook(("notify", "the team"), 30.0, on_node=on_node)
    stage = Stage(world, "hook.run", "node-1", more="before", request={"before": hook})
    assert stage.decide() == Needed("notify the team")

    assert stage.apply() == Done("ran")

    names = ("ORCHESTRATOR_NODE=node-1", "ORCHESTRATOR_RUN=run-1")
    assert world.site.hooks == [(where, ("env", *names, "notify", "the team"))]


def test_a_hook_that_ran_in_another_process_runs_again(world):
    stage = Stage(world, "hook.run", "node-1", more="after", request={"after": Hook(("tell",), 30.0)})
    stage.apply()

    stage.restart()

    assert stage.decide() == Needed("tell")


def test_a_hook_that_fails_stops_the_run_with_its_words(world):
    stage = Stage(world, "hook.run", "node-1", more="before", request={"before": Hook(("ask",), 30.0)})
    world.site.hook_rc = 3

    with pytest.raises(CommandFailed, match="not today") as caught:
        stage.apply()

    assert (caught.value.rc, caught.value.remedy) == (3, "mend the hook, then `orchestrator resume run-1`")
    assert isinstance(stage.decide(), Needed)


def test_what_a_plans_commands_left_is_removed_and_nothing_else(world):
    stage, machine = Stage(world, "host.tidy", "node-1"), world.machine("node-1")
    machine.left |= {"upgrade-1", "upgrade-0"}
    machine.files["/var/lib/orchestrator/upgrade-0/x"] = b""
    assert stage.decide() == Needed("results of its commands to remove")

    assert stage.apply() == Done("nothing is left there")

    assert machine.left == {"upgrade-0"}
    assert "/var/lib/orchestrator/upgrade-0/x" in machine.files


def test_the_directory_of_all_plans_goes_with_the_last_one(tmp_path):
    state, others = tmp_path / "a b", tmp_path / "a b/upgrade-0"
    for plan in ("upgrade-0", "upgrade-1"):
        (state / plan / "step").mkdir(parents=True)
    clear = ["sh", "-c", CLEAR, "sh"]

    subprocess.run([*clear, str(state / "upgrade-1")], check=True)
    assert list(state.iterdir()) == [others]
    for _ in range(2):
        subprocess.run([*clear, str(others)], check=True)
        assert not state.exists()


def test_before_anything_ran_there_is_something_to_remove_in_the_end(world):
    stage = Stage(world, "host.tidy", "node-1")
    assert isinstance(stage.decide(), Needed)

    stage.past["1/cp-1/cluster.note"] = {}

    assert stage.decide() == Done("nothing is left there")
