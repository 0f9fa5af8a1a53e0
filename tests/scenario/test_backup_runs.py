"""Whole backups on a cluster with hosts in memory: undisturbed, killed anywhere, and a month of them by cron."""

import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest

from orchestrator import library
from orchestrator.actions.snapshots import recorded
from orchestrator.backup import catalogue
from orchestrator.backup.directory import DirectoryStore
from orchestrator.backup.seal import unseal
from orchestrator.backup.snapshot import examine
from orchestrator.engine import runs
from orchestrator.engine.plan import Done, Needed
from orchestrator.engine.runner import Stop
from orchestrator.errors import BadUsage, HostUnreachable, Interrupted, LeaseLost, Locked, OrchestratorError, StoreError
from tests.fakes.crash import Crash, Life
from tests.fakes.site_machines import SECRET
from tests.fakes.site_world import At, Desk, SiteWorld, good

HOUR_S, DAY_S = 3600.0, 86400.0
#: Destinations of every run here; the last one is a plain file.
NAMES = ("a", "b", "c/now.db")
STEPS = ["etcd.snapshot", "etcd.recovery", "etcd.store", "etcd.retain", "etcd.unstage", "host.tidy"]


@pytest.fixture
def root(tmp_path):
    """In memory where the system has such a place: hundreds of runs, each with its journal."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(place)


@pytest.fixture(scope="module")
def identity():
    return pyrage.x25519.Identity.generate()


class Backups:
    """A world with three control planes, three old snapshots at two destinations, and a plan.

    Attributes:
        fewest: Of each directory, how many good snapshots there were in the worst moment.
    """

    def __init__(self, root, identity, **request):
        self.world = SiteWorld(root, planes=3, workers=1)
        self.old = {name: [self._old(name, days) for days in (3, 2, 1)] for name in ("a", "b")}
        asked = {"node": "cp-2", "recipients": (str(identity.to_public()),), "level": 3, "keep": "last=3", **request}
        self.plan = self.world.backup(*NAMES, **asked)
        self.fewest = {}
        self.look()

    def _old(self, name, days):
        return self.world.hold(self.world.destination(name), days * DAY_S).name

    def look(self):
        for name in ("a", "b"):
            now = len(good(self.world.destination(name)))
            self.fewest[name] = min(now, self.fewest.get(name, now))

    def life(self, death=None):
        """A process that is watched."""
        return Life(death, then=dict.fromkeys(range(1, 200), self.look))

    def start(self, death=None, run="run-1"):
        life = self.life(death)
        with suppress(Crash):
            self.world.start(self.plan, run=run, life=life)
        return life

    def go_on(self, death=None):
        """What a person does after a crash: resume the last run; where not even its plan was written, start again."""
        begun = len(tuple(self.world.root.iterdir()))
        life = self.life(death)
        with suppress(Crash):
            try:
                self.world.resume(f"run-{begun}", life=life)
            except BadUsage:
                assert self.world.effects == []
                self.world.start(self.plan, run=f"run-{begun + 1}", life=life)
        return life

    def shortcomings(self):
        """All that is not as a backup has to leave it; empty when nothing is."""
        self.look()
        found = [f"{name}: only {n} good ones for a moment" for name, n in self.fewest.items() if n < 3]
        for name in ("a", "b"):
            there = catalogue.read(DirectoryStore(self.world.destination(name)))
            new = [h.record for h in there.held if h.record.name not in self.old[name]]
            whole = good(self.world.destination(name))
            if [record.name in whole and record.recovery is not None for record in new] != [True]:
                found.append(f"{name}: new ones {new}")
            if there.strays or there.unread or len(there.held) != 3:
                found.append(f"{name}: {there.strays} {there.unread} {len(there.held)}")
        if good(self.world.destination("c")) != [new[0].name] or len(self.files("c")) != 2:
            found.append(f"c: {self.files('c')}")
        left = sorted(path.name for path in self.world.site.kept.rglob("*") if path.is_file())
        found += [f"left here: {left}"] if left else []
        for name, machine in self.world.site.machines.items():
            files = [path for path in machine.files if path.startswith("/var/lib/orchestrator")]
            found += [f"left on {name}: {machine.left} {files}"] if machine.left or files else []
        return found + self.world.site.rules.broken

    def files(self, name):
        """Of a destination; what a killed process left half-written is hidden, and goes with a later prune."""
        there = self.world.destination(name)
        return sorted(path.name for path in there.glob("[!.]*")) if there.is_dir() else []


# ---- whole runs -------------------------------------------------------------------------------------------------


def test_a_backup_is_at_every_destination_and_nothing_is_left_anywhere_else(root, identity):
    backups = Backups(root, identity)

    backups.start()

    assert backups.shortcomings() == []
    assert [step.rpartition("/")[2] for step in backups.world.sink.steps("step.finished")] == STEPS
    assert {of[1] for of in backups.world.effects if of[0] == "save"} == {"cp-2"}


def test_what_was_stored_is_a_snapshot_that_opens_with_the_identity(root, identity, tmp_path):
    backups = Backups(root, identity)
    key = tmp_path / "key"
    key.write_text(str(identity))
    key.chmod(0o600)

    backups.start()

    held = catalogue.read(DirectoryStore(backups.world.destination("a"))).held[0]
    stored = backups.world.destination("a") / held.record.data.file
    unseal(stored, tmp_path / "plain.db", compressed=True, identities=[key])
    assert examine(tmp_path / "plain.db").sha256 == held.record.sha256
    assert examine(backups.world.destination("c") / "now.db").sha256 == held.record.sha256


def test_what_is_secret_is_plain_nowhere_in_and_after_a_run(root, identity):
    backups = Backups(root, identity)
    plain = []

    def look():
        plain.extend(path for path in root.rglob("*") if path.is_file() and SECRET in path.read_bytes())

    backups.world.start(backups.plan, life=Life(then=dict.fromkeys(range(1, 200), look)))

    assert plain == []


def test_a_second_backup_takes_its_own_snapshot(root, identity):
    backups = Backups(root, identity)
    backups.start()
    backups.world.site.revision += 5
    backups.world.clock.sleep(3600)
    backups.plan = backups.world.backup(*NAMES, name="backup-2", node="cp-3")

    backups.start(run="run-2")

    held = catalogue.read(DirectoryStore(backups.world.destination("a"))).held
    assert [(h.record.run, h.record.revision, h.wrong) for h in held[:2]] == [("run-2", 9, ""), ("run-1", 4, "")]


def test_a_dry_run_changes_nothing_at_all(root, identity):
    backups = Backups(root, identity)
    world = backups.world
    tree = {path: path.stat() for path in root.rglob("*")}
    hosts = {name: (dict(m.files), set(m.left)) for name, m in world.site.machines.items()}

    found = world.preview(backups.plan)

    assert all(isinstance(each.decision, Needed) for each in found)
    assert {path: path.stat() for path in root.rglob("*")} == tree
    assert {name: (dict(m.files), set(m.left)) for name, m in world.site.machines.items()} == hosts


def test_a_dry_run_does_not_need_its_destinations(root, identity):
    backups = Backups(root, identity)
    for name in ("a", "b"):
        backups.world.take_away(name)

    found = backups.world.preview(backups.plan)

    assert {type(each.decision) for each in found} == {Needed}


# ---- killed anywhere --------------------------------------------------------------------------------------------

#: Each part takes every so many of the points, so that several processes share them.
PARTS = 2


@pytest.mark.matrix
@pytest.mark.parametrize("part", range(PARTS))
def test_a_backup_killed_at_any_point_resumes_to_one_whole_snapshot_at_each_destination(root, identity, part):
    reference = Backups(root / "reference", identity)
    points = reference.start().points()
    assert reference.shortcomings() == []

    for number, death in list(enumerate(points))[part::PARTS]:
        backups = Backups(root / str(number), identity)
        killed = backups.start(death)
        backups.world.cluster.pass_time((0.0, 7.0, 1000.0)[number % 3])
        backups.world.site.revision += number % 2
        backups.go_on()

        assert killed.dead, death
        assert backups.shortcomings() == [], death
    assert len(points) > 90


@pytest.mark.matrix
def test_a_backup_killed_twice_resumes_to_the_same(root, identity):
    points = Backups(root / "reference", identity).start().points()
    died = 0

    for number in range(0, len(points), 3):
        first, second = points[number], points[(number * 7 + len(points) // 3) % len(points)]
        backups = Backups(root / str(number), identity)
        backups.start(first)
        died += backups.go_on(second).dead
        backups.go_on()

        assert backups.shortcomings() == [], (first, second)
    assert died > 10


def test_what_a_kill_left_plain_here_is_gone_when_its_run_has_ended(root, identity):
    """The snapshot is plain on its way; a run that is never resumed leaves it."""
    backups = Backups(root, identity)
    backups.world.clock.sleep(1)
    with suppress(Crash):
        backups.world.start(backups.plan, life=At(("collect", "cp-2")))
    staged = backups.world.site.kept / "staging" / "backup-1.db"
    assert recorded(staged) is not None

    backups.go_on()

    assert not staged.exists()


# ---- trouble ----------------------------------------------------------------------------------------------------


def test_a_run_whose_destination_is_away_stops_with_its_name_and_goes_on_when_it_is_back(root, identity):
    backups = Backups(root, identity)
    world = backups.world
    world.take_away("b")
    with pytest.raises(StoreError, match=str(world.destination("b"))):
        world.start(backups.plan, life=Life())
    assert len(good(world.destination("a"))) == 4  # nothing was removed: the run is not through
    world.bring_back("b")
    world.site.revision += 1

    backups.go_on()

    assert backups.shortcomings() == []
    assert sum(of[0] == "save" for of in world.effects) == 1


def test_a_destination_that_goes_away_in_the_middle_is_caught_up_with(root, identity):
    backups = Backups(root, identity)
    world = backups.world
    life = At(("store", str(world.destination("a"))), lambda: world.take_away("b"), time=3)

    with pytest.raises(StoreError):
        world.start(backups.plan, life=life)
    world.bring_back("b")
    backups.go_on()

    assert backups.shortcomings() == []


def test_a_host_that_loses_power_after_the_snapshot_is_tidied_when_it_is_back(root, identity):
    backups = Backups(root, identity, recipients=(), recovery=False)
    machine = backups.world.machine("cp-2")
    life = At(("store", str(backups.world.destination("a"))), machine.power_off, time=2)
    with pytest.raises(HostUnreachable):
        backups.world.start(backups.plan, life=life)
    assert all(len(good(backups.world.destination(name))) >= 3 for name in ("a", "b"))
    machine.power_on()
    backups.world.cluster.pass_time(60)

    backups.go_on()

    assert machine.left == set()
    assert [len(good(backups.world.destination(name))) for name in ("a", "b", "c")] == [3, 3, 1]


def test_a_run_that_is_asked_to_stop_ends_between_two_steps_and_goes_on(root, identity):
    backups, stop = Backups(root, identity), Stop()
    life = At(("save", "cp-2"), stop.request)
    with pytest.raises(Interrupted):
        backups.world.start(backups.plan, life=life, stop=stop)

    backups.go_on()

    assert backups.shortcomings() == []


def test_a_run_that_lost_its_lease_removes_nothing(root, identity):
    backups = Backups(root, identity)
    world = backups.world

    def lose():
        world.clock.sleep(3600)
        world.leases.put(replace(world.leases.record, holder="bob@desk"))

    life = At(("store", str(world.destination("c"))), lose, time=2)
    with pytest.raises(LeaseLost):
        world.start(backups.plan, life=life)

    assert [of for of in world.effects if of[0] == "remove"] == []


def test_every_step_of_a_run_that_ended_finds_itself_done(root, identity):
    backups = Backups(root, identity)
    backups.start()
    actions, view = backups.world.actions, backups.world.site.view()
    past = {step.id: {} for step in backups.plan.steps()}

    found = {
        s.action: actions[s.action].decide(actions[s.action].probe(view, s), s, past) for s in backups.plan.steps()
    }

    done = {name for name, decision in found.items() if isinstance(decision, Done)}
    assert done == {"etcd.complete", "etcd.unstage", "host.tidy"}


# ---- a month of cron --------------------------------------------------------------------------------------------


@pytest.fixture
def desk(root, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(root))
    return Desk(root)


KEEP = "hourly=6,daily=7,weekly=4,min=3"


@dataclass
class Month:
    """Hours of a schedule, and what became of them.

    Attributes:
        taken: Destination -> time and name of each snapshot that reached it.
        failed: Hour -> what was said.
        refused: Hour -> why the one that began too early was.
    """

    desk: Desk
    names: tuple = ("a", "b")
    taken: dict = field(default_factory=lambda: {"a": [], "b": []})
    failed: dict = field(default_factory=dict)
    refused: dict = field(default_factory=dict)
    hour: int = 0

    def pass_days(self, days, *, every=3, overlapping=False):
        """One each so many hours: in quiet times more seldom, so that the test does not take as long.

        Overlapping: cron starts the next one while one is at work, each time at another point of it.
        """
        for _ in range(0, int(days * 24), every):
            self.hour += every
            self.desk.clock.step_wall(every * HOUR_S)
            self.desk.site.revision += 7
            self._one(self._overlap() if overlapping else None)
            runs.retain(3)

    def _overlap(self):
        """A process in whose middle another one begins."""
        points = [("save", "cp-1"), *(("store", self.desk.url(name)) for name in self.names)]
        return At(points[self.hour % len(points)], self._too_early)

    def _too_early(self):
        try:
            self.desk.take(*self.names, keep=KEEP, reason="scheduled")
        except OrchestratorError as err:
            self.refused[self.hour] = err

    def _one(self, life=None):
        before = {name: set(good(self.desk.world.destination(name))) for name in self.names}
        try:
            self.desk.take(*self.names, keep=KEEP, reason="scheduled", life=life)
        except OrchestratorError as err:
            self.failed[self.hour] = [str(err), *getattr(err, "__notes__", ())]
        for name in self.names:
            now = set(good(self.desk.world.destination(name)))
            new = now - before[name]
            self.taken[name] += [(self.desk.clock.wall(), each) for each in new]
            assert len(new) <= 1, self.hour
            assert len(now) >= min(len(before[name]), 3), self.hour
            if self.desk.world.destination(name).is_dir() and self.taken[name]:
                assert self.taken[name][-1][1] in now, self.hour

    def missed(self, name):
        """What the policy promises, and a destination has not: of its own account, newest first."""
        now, due = good(self.desk.world.destination(name)), []
        for words, count in (("%Y%m%dT%H", 6), ("%Y%m%d", 7), ("%GW%V", 4)):
            periods = {}
            for at, each in self.taken[name]:
                periods[_when(at, words)] = each
            due += [periods[key] for key in sorted(periods)[-count:]]
        return sorted(set(due) - set(now))


def _when(at, words):
    return f"{datetime.fromtimestamp(at, UTC):{words}}"


@pytest.mark.matrix
def test_a_month_of_backups_through_trouble_loses_nothing_good_and_says_everything(desk):
    month = Month(desk)
    month.pass_days(2, every=1)
    month.pass_days(3)
    assert (month.failed, month.missed("a"), month.missed("b")) == ({}, [], [])

    desk.world.take_away("b")
    month.pass_days(2, every=1)
    assert len(month.failed) == 48
    assert all(desk.url("b") in text[0] and f"stored at {desk.url('a')}" in text for text in month.failed.values())
    assert (desk.told().attempt_ok, [c.ok for c in desk.told().copies]) == (False, [True, False])
    desk.world.bring_back("b")
    month.failed.clear()
    month.pass_days(5)
    assert (month.failed, month.missed("a"), month.missed("b")) == ({}, [], [])

    month.pass_days(1, every=1, overlapping=True)
    assert (month.failed, month.missed("a"), month.missed("b")) == ({}, [], [])
    assert [type(err) for err in month.refused.values()] == [Locked] * 24
    assert all("holds the cluster" in str(err) and err.remedy for err in month.refused.values())
    assert desk.staged() == []

    desk.site.full.add(desk.url("a"))
    month.pass_days(1, every=1)
    assert len(month.failed) == 24
    assert all("0 are free" in text[0] for text in month.failed.values())
    assert [c.ok for c in desk.told().copies] == [False, True]
    desk.site.full.clear()
    month.failed.clear()
    month.pass_days(5)
    assert (month.failed, month.missed("a"), month.missed("b")) == ({}, [], [])

    desk.clock.step_wall(400 * DAY_S)
    month.pass_days(0.125, every=1)
    desk.clock.step_wall(-400 * DAY_S)
    assert month.failed == {}
    ahead = {name: {each for _, each in month.taken[name][-3:]} for name in month.names}
    for name in month.names:
        del month.taken[name][-3:]
    month.pass_days(12)
    assert (month.failed, month.missed("a"), month.missed("b")) == ({}, [], [])
    for name in month.names:
        there = set(good(desk.world.destination(name)))
        assert ahead[name] <= there, "they wait for their time"
        assert len(there) <= 6 + 7 + 4 + 3


def test_a_clock_that_goes_back_takes_nothing_of_what_was_there(desk):
    month = Month(desk)
    month.pass_days(1, every=1)
    there = desk.world.destination("a")
    before = set(good(there))

    desk.clock.step_wall(-12 * HOUR_S)
    month.pass_days(0.25, every=1)

    ahead = {name for at, name in month.taken["a"] if at > desk.clock.wall()} & before
    assert month.failed == {}
    assert len(ahead) > 3
    assert ahead <= set(good(there))


def test_runs_that_fail_and_are_not_resumed_do_not_fill_the_disk_here(desk):
    month = Month(desk)
    desk.world.take_away("b")

    month.pass_days(0.25, every=1)

    assert len(month.failed) == 6
    assert len(list((library.home() / "staging").glob("*.db"))) <= 1
