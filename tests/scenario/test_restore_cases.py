"""The use case of a restore: which cluster it is, what forbids it, by what it is confirmed, and what is warned of."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator import restores
from orchestrator.app import DryRun, Settings
from orchestrator.backup import records
from orchestrator.backup.records import Part, Peer, Record
from orchestrator.backup.snapshot import examine
from orchestrator.cluster import queries
from orchestrator.errors import ApiUnreachable, BadUsage, HostUnreachable, Locked, Refused
from orchestrator.library import Library, home
from orchestrator.planners.restore import RAISED
from orchestrator.restores import MARGIN, Wish
from tests.fakes import boltfiles
from tests.fakes.site import FakeSite, FakeSiteView
from tests.fakes.time import FakeClock

NAME = "prod-20261124T010203Z-r5"
OURS = {f"cp-{n}": f"https://198.18.0.{10 + n}:2380" for n in (1, 2, 3)}


class Telling(FakeSiteView):
    """A view of hosts that tell otherwise: `told` gives, for a node, pairs of what is replaced by what."""

    def __init__(self, site):
        super().__init__(site)
        self.told = {}
        self.named = ""

    def ask(self, node, query, *words):
        answer = super().ask(node, query, *words)
        for before, after in self.told.get(node, ()) if query is queries.ETCD_HOST else ():
            assert before in answer
            answer = answer.replace(before, after)
        return answer

    def configuration(self):
        found = super().configuration()
        return f"{found}clusterName: {self.named}\n" if self.named else found


class Desk:
    """An operator, three control planes, and a snapshot with its record."""

    def __init__(self, root):
        self.site = FakeSite(FakeClock(), root / "kept", planes=3, workers=1)
        self.view = Telling(self.site)
        self.said, self.held = [], None
        self.file = root / f"{NAME}.db"
        self.app = SimpleNamespace(
            settings=Settings(dry_run=DryRun.CLIENT), view=self.view, reader=self.view, machines=self.view.machines,
            clock=self.site.clock, refuse_if_held=self.refuse_if_held, session=SimpleNamespace(server=""),
        )  # fmt: skip
        self.store()

    def refuse_if_held(self):
        if self.held:
            raise self.held

    def store(self, members=OURS, *, storage="3.6.0", recorded=True, **record):
        """The snapshot anew, with these members; and its record."""
        keys = boltfiles.Keys()
        for number in range(4):
            keys.put(b"/registry/pods/default/%d" % number)
        listed = [
            (b"%x" % number, json.dumps({"id": number, "name": name, "peerURLs": [url]}).encode())
            for number, (name, url) in enumerate(members.items(), 1)
        ]
        meta = [(b"storageVersion", storage.encode())] if storage else []
        self.file.write_bytes(boltfiles.snapshot(keys.pairs, members=listed, meta=meta))
        found = examine(self.file)
        size, sha256 = found.size_bytes, found.sha256
        told = {
            "name": NAME, "at": 1.0, "reason": "manual", "cluster": "prod", "cluster_id": "1",
            "authority": self.site.authority, "node": "cp-1", "etcd": "3.6.8", "storage": storage,
            "kubernetes": "v1.36.3", "revision": found.revision, "keys": found.keys, "size_bytes": size,
            "sha256": sha256, "data": Part(file=self.file.name, size_bytes=size, sha256=sha256),
            "members": tuple(
                Peer(id=f"{number:x}", name=name, peer_urls=(members[name],)) for number, name in enumerate(members, 1)
            ),
        }  # fmt: skip
        beside = self.file.with_suffix(".json")
        beside.unlink(missing_ok=True)
        if recorded:
            beside.write_bytes(records.encode(Record(**{**told, **record})))

    def stop(self, *names, of="etcd"):
        """These do not run any more on those hosts, nor come back."""
        for name in names or OURS:
            self.site.machines[name].gone((of,), 0.0, 1e9)

    def api_down(self):
        self.stop(of="kube-apiserver")

    def tell(self, node, before, after):
        self.view.told.setdefault(node, []).append((before, after))

    def prepare(self, **wish):
        wish = Wish(str(self.file), **wish)
        return restores.prepare(self.app, Library(self.app, ()), wish, self.said.append, rehearse=False)

    def refuses(self, kind=Refused, **wish):
        """How it is refused; nothing is changed, neither there nor here."""
        before = self.site.standing()
        with pytest.raises(kind) as caught:
            self.prepare(**wish)
        assert self.site.standing() == before
        assert not list(Path(home(), "staging").glob("*"))
        return caught.value


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "kept").mkdir()
    return Desk(tmp_path)


def step(found, action):
    return next(s for s in found.plan.steps() if s.action == action)


def staged(found):
    return step(found, "restore.stage").params


# ---- what it takes ----------------------------------------------------------------------------------------------


def test_a_snapshot_of_this_cluster_is_restored_on_all_control_planes(desk):
    found = desk.prepare()

    assert found.plan.nodes() == ("cp-1", "cp-2", "cp-3")
    assert staged(found)["cluster"] == ",".join(f"{name}={url}" for name, url in OURS.items())


def test_the_revision_is_raised_above_the_live_one_where_every_member_tells_it(desk):
    desk.site.revision = 5000

    found = desk.prepare()

    assert staged(found)["bump"] == 5000 - found.snapshot.revision + MARGIN
    assert step(found, "restore.quorum").params["revision"] == 5000 + MARGIN


def test_the_revision_is_raised_by_a_constant_where_one_member_does_not_tell(desk):
    desk.site.revision = 5000
    desk.stop("cp-3")

    assert staged(desk.prepare(accept=("one-member-lost",)))["bump"] == RAISED


def test_a_snapshot_that_is_ahead_of_the_cluster_is_raised_by_the_margin(desk):
    desk.site.revision = 2

    assert staged(desk.prepare())["bump"] == MARGIN


# ---- whose it is ------------------------------------------------------------------------------------------------

THEIRS = {"etcd-a": "https://203.0.113.1:2380", "etcd-b": "https://203.0.113.2:2380"}


@pytest.mark.parametrize("recorded", [True, False])
def test_a_snapshot_none_of_whose_members_is_here_is_another_cluster_s(desk, recorded):
    desk.store(THEIRS, recorded=recorded)

    err = desk.refuses()

    assert "the snapshot is of another cluster: its members are etcd-a (https://203.0.113.1:2380), etcd-b" in str(err)
    assert "those here cp-1 (https://198.18.0.11:2380), cp-2" in str(err)
    assert "--accept other-cluster" in err.remedy


@pytest.mark.parametrize(
    "members",
    [
        {"cp-1": "https://203.0.113.1:2380", **THEIRS},  # its address was changed since
        {"old": OURS["cp-2"], **THEIRS},  # its name was
    ],
)
def test_one_taken_before_control_planes_were_replaced_shares_a_member(desk, members):
    desk.store(members)

    assert desk.prepare().plan.waves


def test_one_whose_members_that_are_left_are_dead_is_this_cluster_s(desk):
    desk.store({"cp-3": "https://203.0.113.9:2380"})
    desk.site.machines["cp-3"].cut = True
    desk.stop("cp-2")

    assert desk.prepare(dead=("cp-3",)).plan.nodes() == ("cp-1", "cp-2")


def test_one_that_tells_no_members_is_warned_of(desk):
    desk.store({}, recorded=False)

    assert any("nobody knows of which cluster it is" in text for text in desk.prepare().warnings)


def test_without_a_record_its_members_say_whose_it_is(desk):
    desk.store(recorded=False)

    said = desk.prepare().warnings

    assert "the file has no record beside it: that it is of this cluster is known by its members only" in said


def test_names_alone_are_those_of_many_clusters(desk):
    desk.store({"cp-1": "https://203.0.113.1:2380"}, recorded=False)

    [said] = [text for text in desk.prepare().warnings if "record" in text]

    assert "names of this cluster's, and none of its addresses" in said


def test_another_authority_is_another_cluster_s(desk):
    desk.store(authority="f" * 64)

    err = desk.refuses()

    assert "the snapshot is of another cluster: its authority is ffff" in str(err)
    assert "--accept other-cluster" in err.remedy


def test_another_cluster_s_is_restored_where_that_is_said(desk):
    desk.store(THEIRS, authority="f" * 64)

    assert desk.prepare(accept=("other-cluster",)).plan.waves


@pytest.mark.parametrize("recorded", [True, False])
def test_the_name_to_type_is_that_of_the_cluster_that_is_there(desk, recorded):
    desk.store(recorded=recorded, cluster="elsewhere")
    desk.view.named = "here"

    assert staged(desk.prepare())["cluster_name"] == "here"


def test_with_the_api_away_it_is_that_of_the_record(desk):
    desk.api_down()

    assert staged(desk.prepare())["cluster_name"] == "prod"


# ---- versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("down", [False, True])
def test_data_of_a_later_etcd_are_not_given_to_an_earlier_one(desk, down):
    desk.store(storage="3.7.0")
    if down:
        desk.stop()

    err = desk.refuses()

    assert "cp-1: etcd v3.6." in str(err)
    assert "cannot read data of 3.7.0" in str(err)
    assert "upgrade the control planes first" in err.remedy


@pytest.mark.parametrize("storage", ["3.6.0", "3.5.0", ""])
def test_data_of_an_earlier_etcd_are_read(desk, storage):
    desk.store(storage=storage)

    assert desk.prepare().plan.waves


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("v1.34.1", "which v1.36.3 does not know any more cannot be read"),
        ("v1.37.0", "which v1.36.3 does not know yet cannot be read"),
    ],
)
@pytest.mark.parametrize("away", [False, True])
def test_a_snapshot_of_another_minor_is_warned_of(desk, version, says, away):
    desk.store(kubernetes=version)
    if away:
        desk.api_down()

    [said] = [text for text in desk.prepare().warnings if "Kubernetes" in text]

    assert f"the snapshot is of Kubernetes {version}, the API server of cp-1 is v1.36.3" in said
    assert says in said


@pytest.mark.parametrize("record", [{"kubernetes": "v1.36.9"}, {"kubernetes": ""}, {"recorded": False}])
def test_another_patch_or_none_known_is_nothing_to_warn_of(desk, record):
    desk.store(**record)

    assert not [text for text in desk.prepare().warnings if "Kubernetes" in text]


# ---- hosts ------------------------------------------------------------------------------------------------------


def test_an_etcd_that_is_no_static_pod_is_restored_by_hand(desk):
    desk.site.machines["cp-2"].manifests.pop("etcd")
    desk.site.machines["cp-2"].components.pop("etcd")

    err = desk.refuses()

    assert "cp-2: etcd is no static pod there (there is none)" in str(err)
    assert "etcdutl snapshot restore" in err.remedy


def test_a_log_that_is_kept_apart_is_left_alone(desk):
    desk.tell("cp-3", "wal-dir=", "wal-dir=/wal")

    err = desk.refuses()

    assert "cp-3: etcd keeps its log apart (/wal)" in str(err)
    assert err.remedy == "restore it by hand"


def test_without_etcdutl_nothing_is_begun(desk):
    desk.tell("cp-1", "@@tool etcdutl", "@@tool other")

    err = desk.refuses()

    assert "cp-1: there is no etcdutl" in str(err)
    assert err.remedy == "install it there"


def test_a_control_plane_that_cannot_be_reached_is_dead_or_it_is_not(desk):
    desk.stop("cp-2")
    desk.site.machines["cp-3"].cut = True

    err = desk.refuses(HostUnreachable)

    assert "cp-3: no connection" in str(err)
    assert "gone for good: --dead cp-3" in err.remedy
    assert desk.prepare(dead=("cp-3",)).plan.nodes() == ("cp-1", "cp-2")


def test_who_is_no_control_plane_cannot_be_dead(desk):
    err = desk.refuses(BadUsage, dead=("node-1",))

    assert "--dead=node-1 is no control plane" in str(err)
    assert "cp-1, cp-2, cp-3" in err.remedy


def test_with_every_control_plane_dead_there_is_none_to_restore_on(desk):
    err = desk.refuses(dead=tuple(OURS))

    assert "no control plane is left to restore on" in str(err)


# ---- whether it is needed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dead", [(), ("cp-3",)])
def test_while_a_quorum_lives_a_lost_member_is_replaced_and_nothing_taken_back(desk, dead):
    desk.stop("cp-3")

    err = desk.refuses(dead=dead)

    assert "2 of 3 members are well, a quorum: only cp-3 is lost" in str(err)
    assert err.remedy.startswith("orchestrator etcd replace-member cp-3")
    assert "--accept one-member-lost" in err.remedy
    assert desk.prepare(dead=dead, accept=("one-member-lost",)).plan.waves


# ---- other runs -------------------------------------------------------------------------------------------------


def test_while_another_run_holds_the_cluster_nothing_is_begun(desk):
    desk.held = Locked("bo holds the cluster with run upgrade-1", remedy="wait for it")

    assert desk.refuses(Locked) is desk.held


def test_who_holds_it_cannot_be_asked_while_the_api_is_away(desk):
    desk.held = ApiUnreachable("no answer", remedy="wait")

    assert desk.prepare().plan.waves
    desk.held = Locked("bo holds the cluster", remedy="wait for it")
    desk.api_down()
    assert desk.prepare().plan.waves


# ---- the API is away --------------------------------------------------------------------------------------------


def test_without_the_api_a_file_without_a_record_tells_no_control_planes(desk):
    desk.store(recorded=False)
    desk.api_down()

    assert "no answer" in str(desk.refuses(ApiUnreachable))


def later(desk):
    """The snapshot was taken before cp-3 joined, whose name is in nobody's manifest but its own and a later one's."""
    desk.store({name: OURS[name] for name in ("cp-1", "cp-2")})
    desk.tell("cp-2", "cp-2=https://198.18.0.12:2380", f"cp-2=https://198.18.0.12:2380,cp-3={OURS['cp-3']}")


def test_a_control_plane_that_joined_since_is_named_where_the_api_cannot_tell_of_it(desk):
    later(desk)
    desk.stop()
    desk.api_down()

    err = desk.refuses()

    assert (
        "cp-2: etcd.yaml names the member cp-3 (https://198.18.0.13:2380), and the snapshot's record does not"
        in str(err)
    )
    assert "--dead cp-3" in err.remedy
    assert "--dead=cp-7 is no control plane" in str(desk.refuses(BadUsage, dead=("cp-3", "cp-7")))
    assert desk.prepare(dead=("cp-3",)).plan.nodes() == ("cp-1", "cp-2")


def test_where_the_api_answers_it_tells_of_all_of_them(desk):
    later(desk)

    assert desk.prepare().plan.nodes() == ("cp-1", "cp-2", "cp-3")
