"""Rebuilds in memory: what is looked at before one begins, what is refused, and what each step does on its machine."""

import hashlib
import io
import tarfile
from dataclasses import dataclass, replace
from types import SimpleNamespace

import msgspec
import pyrage
import pytest

from orchestrator import rebuilds
from orchestrator.actions.rebuild import PATIENCE_S, Bring, Data, Finish, Nodes, Place, Started, Undo
from orchestrator.backup import records, seal
from orchestrator.backup.records import Part, Peer, Record
from orchestrator.engine.plan import Blocked, Done, Needed
from orchestrator.engine.runner import Applying
from orchestrator.errors import ApiForbidden, BadUsage, CommandFailed, FactUnreadable, Refused, SnapshotInvalid
from orchestrator.library import Library
from orchestrator.planners import rebuild as planner
from tests.fakes.newmachines import NewMachine, NewMachines
from tests.fakes.recoverysets import answer, archive, snapshot, texts
from tests.fakes.time import FakeClock

NAME = "prod-20270115T100000Z-r2"
AUTHORITY = hashlib.sha256(b"/etc/kubernetes/pki/ca.crt\n").hexdigest()
ALL = ("cp-1", "cp-2", "cp-3")


@dataclass
class Desk:
    """An operator with a key, a destination, and machines."""

    root: object

    def __post_init__(self):
        self.stored, self.key, self.said = self.root / "stored", self.root / "key.txt", []
        identity = pyrage.x25519.Identity.generate()
        self.key.write_text(f"{identity}\n")
        self.key.chmod(0o600)
        self.recipients = (str(identity.to_public()),)
        self.world = NewMachines(
            self.root / "orchestrator/snapshots",
            *(NewMachine(f"cp-{n}", f"198.18.0.{10 + n}") for n in (1, 2, 3)),
        )
        self.app = SimpleNamespace(clock=FakeClock(), view=self.world, reader=self.world, machines=self.world)
        self.store()

    def put(self, name, content, *, level=3):
        plain = self.root / "plain"
        plain.write_bytes(content)
        target = self.stored / name
        target.unlink(missing_ok=True)
        sealed = seal.seal(plain, target, level=level, recipients=self.recipients)
        plain.unlink()
        return Part(file=name, size_bytes=sealed.size_bytes, sha256=sealed.sha256)

    def store(self, *, found=None, **changes):
        """A snapshot with its recovery set, as a backup stores them."""
        self.stored.mkdir(exist_ok=True)
        content = snapshot()
        told = {
            "name": NAME, "at": 1_794_990_000.0, "reason": "manual", "cluster": "prod", "cluster_id": "1",
            "authority": AUTHORITY, "node": "cp-1", "etcd": "3.6.8", "kubernetes": "v1.36.3", "revision": 2, "keys": 1,
            "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(),
            "data": self.put(f"{NAME}.db.zst.age", content),
            "recovery": self.put(f"{NAME}.recovery.tar.zst.age", archive(found or texts())),
            "members": (Peer(id="1", name="cp-1", peer_urls=("https://198.18.0.11:2380",)),),
            "recipients": self.recipients, **changes,
        }  # fmt: skip
        self.record = Record(**told)
        (self.stored / f"{NAME}.json").write_bytes(records.encode(self.record))

    def prepare(self, name="last", onto=ALL, **more):
        wish = rebuilds.Wish(name, tuple(onto), identities=(self.key,), **more)
        return rebuilds.prepare(self.app, Library(self.app, (str(self.stored),)), wish, self.said.append)

    @property
    def staged(self):
        directory = self.root / "orchestrator/snapshots/staging"
        return sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return Desk(tmp_path)


# ---- before it begins -------------------------------------------------------------------------------------------


def test_a_rebuild_is_planned_on_machines_that_are_reached_by_what_the_set_tells(desk):
    found = desk.prepare()

    assert found.plan.nodes() == ALL
    assert [(n.name, n.addresses, n.provider_id) for n in desk.world.known] == [
        (f"cp-{n}", {"InternalIP": f"198.18.0.{10 + n}"}, f"kind://docker/x/cp-{n}") for n in (1, 2, 3)
    ]
    assert "what was written since is lost" in found.warnings[0]
    assert all(machine.ran == [] for machine in desk.world.machines.values())


def test_what_is_here_meanwhile_is_as_it_was_stored_and_goes_when_it_is_not_begun(desk):
    found = desk.prepare()

    assert desk.staged == [f"{found.name}.db.zst.age", f"{found.name}.recovery.tar.zst.age"]
    rebuilds.clear(found.name)
    assert desk.staged == []


def test_control_planes_that_are_not_named_are_told(desk):
    found = desk.prepare(onto=["cp-1"])

    assert [w.split()[0] for w in found.warnings if "is not rebuilt" in w] == ["cp-2", "cp-3"]


def test_files_are_taken_as_they_are_and_where_they_are(desk):
    file, kept = desk.stored / f"{NAME}.db.zst.age", desk.stored / f"{NAME}.recovery.tar.zst.age"
    beside = desk.prepare(str(file))
    named = desk.prepare(str(file), set=kept)
    (desk.stored / f"{NAME}.json").unlink()
    alone = desk.prepare(str(file), set=kept)

    for found in (beside, named, alone):
        bring = next(found.plan.steps()).params
        assert (bring["snapshot"], bring["set"]) == (str(file), str(kept))
    assert desk.staged == []
    assert any("has no record beside it" in w for w in alone.warnings)
    assert next(alone.plan.steps()).params["cluster_name"] == "prod"  # of kubeadm's configuration


def test_a_plain_snapshot_needs_no_key(desk):
    plain = desk.stored / "x.db"
    plain.write_bytes(snapshot())

    found = desk.prepare(str(plain), set=desk.stored / f"{NAME}.recovery.tar.zst.age")

    assert next(found.plan.steps()).params["snapshot"] == str(plain)


def refused(desk, kind, said, *words, **more):
    with pytest.raises(kind, match=said):
        desk.prepare(*words, **more)
    assert desk.staged == []


def test_a_cluster_that_lives_is_not_rebuilt(desk):
    desk.world.nodes_there = ()
    refused(desk, Refused, "the API answers, with 0 nodes: the cluster is not gone")

    desk.world.nodes_there = ApiForbidden("you may not", remedy="ask")
    refused(desk, Refused, "an API server answers")


def test_what_cannot_be_meant_is_refused(desk):
    refused(desk, BadUsage, "there is no file /nowhere", "/nowhere")
    refused(desk, BadUsage, "there is no file", set=desk.root / "nothing")
    refused(desk, BadUsage, "--onto=node-1 is no member of etcd in the snapshot", onto=["node-1"])


def test_a_snapshot_without_a_set_needs_one(desk):
    desk.store(recovery=None)
    refused(desk, BadUsage, "there is no recovery set beside")

    desk.store()
    (desk.stored / f"{NAME}.recovery.tar.zst.age").unlink()
    refused(desk, SnapshotInvalid, "recovery.tar.zst.age is missing", NAME)
    refused(desk, BadUsage, "there is no file", str(desk.stored / f"{NAME}.db.zst.age"))


def test_what_is_not_as_recorded_is_refused(desk):
    desk.store(sha256="0" * 64)
    refused(desk, SnapshotInvalid, "is not the one that its record tells of")

    desk.store()
    other = msgspec.structs.replace(desk.record.recovery, sha256="0" * 64)
    (desk.stored / f"{NAME}.json").write_bytes(records.encode(msgspec.structs.replace(desk.record, recovery=other)))
    refused(desk, SnapshotInvalid, "is not the one recorded")


def test_a_set_of_another_cluster_is_refused(desk):
    desk.store(authority="1" * 64)

    refused(desk, Refused, "snapshot and recovery set are of two clusters")


def test_a_set_that_cannot_be_made_anothers_says_so_before_anything(desk):
    found = texts()
    found["/var/lib/kubelet/kubeadm-flags.env"] = '"--node-ip=198.18.0.11,fd00::1"'
    desk.store(found=found)

    refused(desk, Refused, "gives its node two addresses")


def test_all_that_forbids_it_is_told_at_once(desk):
    desk.world.machines["cp-1"].heads = ["occupied /etc/kubernetes/kubelet.conf"]
    desk.world.machines["cp-3"].changes = {"kubeadm": "v1.37.2"}

    refused(desk, Refused, r"cp-1: it has /etc/kubernetes/kubelet.conf: it is not fresh\ncp-3: kubeadm is v1.37.2")


# ---- on a machine -----------------------------------------------------------------------------------------------


@dataclass
class Work:
    """Steps of one plan, outside of a run."""

    desk: Desk

    def __post_init__(self):
        self.plan = self.desk.prepare().plan
        self.events, self.past = [], {}
        clock = self.desk.app.clock
        self.actions = {
            "rebuild.bring": Bring(), "rebuild.place": Place(), "rebuild.data": Data(), "rebuild.kubelet": Started(),
            "rebuild.finish": Finish(), "rebuild.nodes": Nodes(clock), "rebuild.undo": Undo(),
        }  # fmt: skip

    def step(self, action, node="cp-2"):
        return next(s for s in self.plan.steps() if s.action == action and s.node == node)

    def decide(self, action, node="cp-2"):
        doing, step = self.actions[action], self.step(action, node)
        return doing.decide(doing.probe(self.desk.world, step), step, self.past)

    def apply(self, action, node="cp-2"):
        doing, step = self.actions[action], self.step(action, node)
        now = doing.probe(self.desk.world, step)
        self.past.setdefault(step.id, now)
        emit = lambda name, **fields: self.events.append((name, fields))  # noqa: E731
        run = Applying("run-1", step, None, self.desk.app.clock, emit, lambda: None)
        doing.apply(self.desk.world, step, now, run)
        return self.decide(action, node)


def test_a_machine_is_made_ready_step_by_step(desk):
    work, there = Work(desk), desk.world.machines["cp-2"]
    for action in ("rebuild.bring", "rebuild.place", "rebuild.data", "rebuild.kubelet", "rebuild.finish"):
        assert isinstance(work.decide(action), Needed)
        assert isinstance(work.apply(action), Done)
    assert [ran[0] for ran in there.ran] == ["own", "placed", "member", "kubelet", "ended"]


def test_it_gets_the_snapshot_and_its_own_part_of_the_set_for_root_only(desk):
    work, there = Work(desk), desk.world.machines["cp-2"]
    work.apply("rebuild.bring")

    directory = f"/var/lib/orchestrator/{work.step('rebuild.bring').params['plan']}"
    assert there.files[f"{directory}/snapshot.db"] == (snapshot(), 0o600, "root:root")
    packed, *how = there.files[f"{directory}/set.tar"]
    assert how == [0o600, "root:root"]
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert b"name: cp-2" in tar.extractfile("kubeadm.yaml").read()
    assert all(path.suffix == ".age" for path in (desk.root / "orchestrator").rglob("*.*") if path.is_file())


def test_what_was_brought_is_not_brought_again(desk):
    work, there = Work(desk), desk.world.machines["cp-2"]
    work.apply("rebuild.bring")
    there.files.clear()
    there.heads.remove("snapshot")
    work.actions["rebuild.bring"] = Bring()  # another process
    work.apply("rebuild.bring")

    assert [path.rpartition("/")[2] for path in there.files] == ["snapshot.db"]


def test_a_plain_snapshot_goes_from_where_it_is(desk):
    plain = desk.root / "x.db"
    plain.write_bytes(snapshot())
    work = Work(desk)
    work.plan = desk.prepare(str(plain), set=desk.stored / f"{NAME}.recovery.tar.zst.age").plan

    assert isinstance(work.apply("rebuild.bring"), Done)


def test_a_machine_that_is_in_use_by_then_is_left_alone(desk):
    work = Work(desk)
    desk.world.machines["cp-2"].heads = ["occupied /var/lib/etcd/member"]

    assert isinstance(work.decide("rebuild.bring"), Blocked)


def test_what_is_not_here_any_more_cannot_be_brought(desk):
    work = Work(desk)
    rebuilds.clear(work.step("rebuild.bring").params["plan"])

    with pytest.raises(FactUnreadable, match="is not here any more"):
        work.apply("rebuild.bring")


def test_a_set_that_cannot_be_opened_leaves_no_open_file(desk):
    work = Work(desk)
    desk.key.write_text(f"{pyrage.x25519.Identity.generate()}\n")

    with pytest.raises(SnapshotInvalid, match="none of the 1 identities"):
        work.apply("rebuild.bring")


def test_a_script_that_fails_says_what_it_said_and_the_ways_on(desk):
    work = Work(desk)
    desk.world.machines["cp-2"].fails = "placed"
    work.apply("rebuild.bring")

    with pytest.raises(CommandFailed, match="it does not work") as caught:
        work.apply("rebuild.place")
    assert "release" in caught.value.remedy
    assert rebuilds.standing(desk.app, work.plan) == tuple(f"{name}: nothing in place" for name in ALL)


def test_how_far_each_machine_is_is_told(desk):
    work = Work(desk)
    for action in ("rebuild.bring", "rebuild.place", "rebuild.data", "rebuild.kubelet"):
        work.apply(action)
    desk.world.machines["cp-2"].heads.append("process etcd 7")

    assert rebuilds.standing(desk.app, work.plan)[1] == (
        "cp-2: files in place, etcd's data restored, kubelet running, etcd running"
    )


def test_it_is_taken_away_again(desk):
    work = Work(desk)
    work.apply("rebuild.bring")
    work.plan = planner.back("run-1", work.plan, work.past)

    assert isinstance(work.apply("rebuild.undo"), Done)
    assert desk.world.machines["cp-2"].ran[-1][3:] == ("no",)


# ---- nodes ------------------------------------------------------------------------------------------------------


def kubelets(**ages):
    """Node -> the age of its lease, and whether it is Ready."""
    lines = []
    for name, (age, ready) in ages.items():
        name = name.replace("_", "-")  # noqa: PLW2901
        lines += [f"@@node {name} {ready}", " no network", f"@@lease {name} {age}"]
    return "\n".join([*lines, "@@end", ""])


PLANES = {"cp_1": (3, "True"), "cp_2": (3, "True"), "cp_3": (3, "True")}


def waited(desk, *answers):
    work = Work(desk)
    work.past = {"0/cp-1/rebuild.bring": {}}
    desk.world.kubelets = list(answers)
    return work


def test_kubelets_that_are_all_heard_of_need_no_wait(desk):
    work = waited(desk, kubelets(**PLANES, node_1=(9, "True")))

    assert work.decide("rebuild.nodes", "cp-1") == Done("4 kubelets are heard of")


def test_a_worker_that_is_gone_is_told_when_it_had_its_time(desk):
    work = waited(desk, kubelets(**PLANES, node_1=(90, "True")))

    assert isinstance(work.decide("rebuild.nodes", "cp-1"), Needed)
    done = work.apply("rebuild.nodes", "cp-1")

    assert isinstance(done, Done)
    [(name, fields)] = work.events
    assert (name, fields["level"]) == ("rebuild.silent", "warning")
    assert "kubectl delete node node-1" in fields["why"] == done.why
    assert desk.app.clock.now() >= PATIENCE_S


def test_a_worker_that_finds_its_way_back_is_not_told(desk):
    away, back = kubelets(**PLANES, node_1=(90, "True")), kubelets(**PLANES, node_1=(2, "True"))
    work = waited(desk, away, away, back)

    assert work.apply("rebuild.nodes", "cp-1") == Done("4 kubelets are heard of")
    assert work.events == []


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "the API server does not tell of nodes yet"),
        (kubelets(**{**PLANES, "cp_2": (90, "True")}), "nothing is heard of cp-2 yet"),  # what is restored reads Ready
        (kubelets(**{**PLANES, "cp_2": (3, "False")}), "cp-2 is not Ready: no network"),
        (kubelets(cp_1=(3, "True"), cp_2=(3, "True")), "cp-3 has no node object"),
    ],
)
def test_control_planes_have_to_be_ready_and_heard_of(desk, said, why):
    work = waited(desk, said)

    assert work.decide("rebuild.nodes", "cp-1") == Needed(why, again=True)
    assert work.apply("rebuild.nodes", "cp-1") == Needed(why, again=True)  # nothing to do but to look again


def test_a_machine_that_cannot_be_asked_is_named_by_the_error_itself(desk):
    work = Work(desk)
    desk.world.machines["cp-1"].changes = {"name": "x"}
    plan = replace(work.plan)
    desk.world.ask = lambda node, query, *words: "" if node == "cp-1" else answer(name=node)

    assert len(rebuilds.standing(desk.app, plan)) == 2
