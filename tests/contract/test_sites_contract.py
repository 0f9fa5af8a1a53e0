"""The suite of `tests/contract/sites.py`, held to by a cluster in memory, and by this machine behind the real thing."""

import hashlib
import itertools

import pytest

from orchestrator.cluster import queries
from orchestrator.cluster.model import Node
from orchestrator.engine.host import STATE
from orchestrator.hosts.detached import Unit
from orchestrator.site import Machines, SiteHands
from tests.fakes.hosts import HereAsRoot, machine
from tests.fakes.sink import Recorder
from tests.fakes.site import FakeSite
from tests.fakes.time import FakeClock

pytest.register_assert_rewrite("tests.contract.sites")
from tests.contract.sites import *  # noqa: E402, F403


class InMemory:
    """The fake."""

    command = ("the-command",)
    another = ("another-command",)

    def __init__(self, directory):
        self.clock = FakeClock()
        self.site = FakeSite(self.clock, directory / "kept")
        self.hands = self.site.hands()
        self.rc, self.hangs = 0, False
        self._runs = 0
        self._numbers = itertools.count()
        self._machine = self.site.machines["node-1"]
        self._machine.taught = {self.command: self._carry_out}

    def _carry_out(self, errand):
        self._runs += 1
        yield 86400.0 if self.hangs else 0.5
        errand.say("out")
        errand.say("err", error=True)
        return self.rc

    def runs(self):
        return self._runs

    def looks(self):
        return self._machine.looks.total()

    def lose(self, errand):
        self._machine.errands[errand.plan, errand.step].state = "vanished"

    def file(self, contents):
        path = f"/root/file-{next(self._numbers)}"
        self._machine.files[path] = contents
        return path


class Elsewhere(HereAsRoot):
    """This machine, but for where commands that outlast a connection are kept, and without its systemd."""

    def __init__(self, root):
        super().__init__()
        self.questions = 0
        self._root = str(root)

    def execute(self, argv, *, stdin, output, deadline_s, repeatable):
        given = b"".join(stdin)
        moved = given.replace(STATE.encode(), self._root.encode())
        digests = {hashlib.sha256(given).hexdigest(): hashlib.sha256(moved).hexdigest(), "yes": "no"}
        words = [digests.get(word, word.replace(STATE, self._root)) for word in argv]
        self.questions += any(query.script in argv for query in queries.ALL)
        return super().execute(words, stdin=iter([moved]), output=output, deadline_s=deadline_s, repeatable=repeatable)


class ThisMachine:
    """The real thing, over a transport that carries commands to this machine; nobody asks its cluster."""

    def __init__(self, directory):
        self.clock = FakeClock()
        self._directory = directory
        self._transports = {name: Elsewhere(directory / "left") for name in ("node-1", "node-2")}
        machines = Machines(
            lambda node: machine(self._transports[node.name], name=node.name), self.clock, directory / "kept"
        )
        machines.know([Node(name, "", "", unschedulable=False, ready=True) for name in self._transports])
        self.hands = SiteHands(None, self.clock, Recorder(), machines=machines)
        work = f"echo run >> {directory}/runs; [ ! -e {directory}/hangs ] || sleep 30; exit $(cat {directory}/rc)"
        self.command = ("sh", "-c", f"echo out; echo err >&2; {work}")
        self.another = ("true",)
        self._numbers = itertools.count()
        self.rc = 0

    @property
    def rc(self):
        return int((self._directory / "rc").read_text())

    @rc.setter
    def rc(self, rc):
        (self._directory / "rc").write_text(str(rc))

    @property
    def hangs(self):
        return (self._directory / "hangs").exists()

    @hangs.setter
    def hangs(self, hangs):
        if hangs:
            (self._directory / "hangs").touch()
        else:
            (self._directory / "hangs").unlink()

    def runs(self):
        return (self._directory / "runs").read_text().count("run")

    def looks(self):
        return self._transports["node-1"].questions

    def lose(self, errand):
        place = Unit(errand.plan, errand.step, root=str(self._directory / "left")).directory
        argv = ["sh", "-c", "cd $1; rm rc; sed -i 's/[^ ]*$/another-boot/' started", "sh", place]
        assert self.hands.host("node-1").run(argv, timeout_s=10.0).rc == 0

    def file(self, contents):
        path = self._directory / f"file-{next(self._numbers)}"
        path.write_bytes(contents)
        return str(path)


@pytest.fixture(params=[InMemory, ThisMachine])
def place(request, tmp_path):
    return request.param(tmp_path)
