"""The way back of a control plane, action by action: what each finds, and what it has the host do."""

from types import SimpleNamespace

import pytest

from orchestrator.actions.packages import INSTALL
from orchestrator.actions.rollback import Downgrade, Settings, StaticPods
from orchestrator.actions.site import Trace
from orchestrator.engine.host import Completed
from orchestrator.engine.plan import Blocked, Done, Needed, Step
from orchestrator.engine.runner import Applying
from orchestrator.errors import CommandFailed, Refused
from orchestrator.site import FRESH_S
from tests.fakes.site import FakeSite
from tests.fakes.site_machines import FakePackage
from tests.fakes.time import FakeClock

OLD = "v1.36.3"
BACK = {
    "plan": "back-1",
    "version": OLD,
    "manifests": ["/etc/kubernetes/tmp/kubeadm-backup-manifests-1/kube-apiserver.yaml"],
    "data": "",
    "etcd": "",
    "control_planes": ["cp-1"],
}


class Hands:
    """Reads a cluster in memory, and writes down what a host is asked to do instead of doing it."""

    def __init__(self, site, *, rc=0):
        self._view = site.view()
        self._rc = rc
        self.done = []
        self.ran = Trace("absent")

    def ask(self, node, query, *words):
        return self._view.ask(node, query, *words)

    def trace(self, node, errand):
        return self.ran

    def configuration(self):
        return self._view.configuration()

    def glance(self):
        self._view.glance()

    def host(self, node):
        def run(argv, **how):
            del how
            return self._note(node, argv)

        return SimpleNamespace(name=node, run=run)

    def finish(self, node, argv, errand, *, timeout_s, anew=False, on_line=None, waiting=None):
        del errand, timeout_s, anew, on_line, waiting
        return self._note(node, argv)

    def _note(self, node, argv):
        self.done.append((node, list(argv)))
        return Completed(tuple(argv), self._rc, b"", b"no room" if self._rc else b"", 0.1)


@pytest.fixture
def site(tmp_path):
    return FakeSite(FakeClock(), tmp_path)


def upgraded(site):
    machine = site.machines["cp-1"]
    machine.manifests = {name: "3.7.0-0" if name == "etcd" else "1.37.2" for name in machine.manifests}
    machine.components = dict(machine.manifests)
    machine.packages = {name: FakePackage("1.37.2") for name in machine.packages}
    machine.running = "1.37.2"
    return machine


def step(action, **params):
    return Step(f"0/cp-1/{action}", action, "cp-1", params, 60.0)


def carried_out(doing, hands, it, before=None):
    now = doing.probe(hands, it)
    clock = FakeClock()
    run = Applying("run-1", it, None, clock, lambda *_, **__: None, lambda: None, before or now)
    doing.apply(hands, it, now, run)
    return hands.done


# ---- static pods ----------------------------------------------------------------------------------------------------


def test_static_pods_are_back_when_manifests_and_processes_are(site):
    hands, it = Hands(site), step("kubeadm.rollback", **BACK)

    assert isinstance(StaticPods().decide(StaticPods().probe(hands, it), it, {}), Done)
    upgraded(site)
    site.pass_time(FRESH_S)
    found = StaticPods().decide(StaticPods().probe(hands, it), it, {})
    assert isinstance(found, Needed)
    assert "kube-apiserver v1.37.2" in found.why


def test_a_manifest_that_is_back_without_its_process_is_not_enough(site):
    machine = upgraded(site)
    machine.manifests = {name: "3.6.8-0" if name == "etcd" else "1.36.3" for name in machine.manifests}
    hands, it = Hands(site), step("kubeadm.rollback", **BACK)

    assert isinstance(StaticPods().decide(StaticPods().probe(hands, it), it, {}), Needed)


def test_data_come_back_once_though_static_pods_are_those_already(site):
    hands, it = Hands(site), step("kubeadm.rollback", **{**BACK, "data": "/etc/kubernetes/tmp/copy/etcd"})

    before = StaticPods().decide(StaticPods().probe(hands, it), it, {})
    hands.ran = Trace("ended", 0)
    assert isinstance(before, Needed)
    assert "/etc/kubernetes/tmp/copy/etcd" in before.why
    assert isinstance(StaticPods().decide(StaticPods().probe(hands, it), it, {}), Done)


def test_the_host_is_told_which_copies_to_put_back(site):
    upgraded(site)

    [(node, argv)] = carried_out(StaticPods(), Hands(site), step("kubeadm.rollback", **BACK))
    assert (node, argv[-3:]) == ("cp-1", ["", "back-1", *BACK["manifests"]])


def test_a_run_that_an_earlier_version_began_named_a_directory(site):
    upgraded(site)
    before = {name: value for name, value in BACK.items() if name not in ("manifests", "etcd")}

    [(_, argv)] = carried_out(StaticPods(), Hands(site), step("kubeadm.rollback", **before, backup="/kept/1"))

    assert argv[-3:] == ["", "back-1", "/kept/1"]


def test_manifests_that_were_put_back_and_are_not_of_the_version_are_told_at_once(site):
    """One was kept nowhere: waiting does not bring it."""
    machine, hands, it = upgraded(site), Hands(site), step("kubeadm.rollback", **BACK)
    hands.ran = Trace("ended", 0)
    machine.manifests |= {"kube-scheduler": "1.36.3", "kube-controller-manager": "1.36.3"}

    found = StaticPods().decide(StaticPods().probe(hands, it), it, {})

    assert isinstance(found, Blocked)
    assert found.why.endswith("are back, and kube-apiserver is not of v1.36.3")


def test_an_etcd_that_goes_back_alone_is_waited_for(site):
    machine, hands = site.machines["cp-1"], Hands(site)
    it = step("kubeadm.rollback", **{**BACK, "etcd": "v3.6.8"})
    machine.manifests["etcd"] = machine.components["etcd"] = "3.7.0-0"

    assert StaticPods().decide(StaticPods().probe(hands, it), it, {}) == Needed("etcd v3.7.0 to v1.36.3")
    hands.ran, machine.manifests["etcd"] = Trace("ended", 0), "3.6.8-0"
    site.pass_time(FRESH_S)
    assert isinstance(StaticPods().decide(StaticPods().probe(hands, it), it, {}), Needed)
    machine.components["etcd"] = "3.6.8-0"
    site.pass_time(FRESH_S)
    assert isinstance(StaticPods().decide(StaticPods().probe(hands, it), it, {}), Done)


PLANES = ["cp-1", "cp-2", "cp-3"]
KUBELET = {"plan": "back-1", "version": OLD, "packages": ["kubelet", "kubectl"], "control_planes": PLANES}


@pytest.fixture
def lost(tmp_path):
    """Three members, of which one is lost; the first control plane was upgraded."""
    site = FakeSite(FakeClock(), tmp_path, planes=3)
    upgraded(site)
    site.machines["cp-3"].gone(["etcd"], 0.0, 600.0)
    return site


@pytest.mark.parametrize(
    ("doing", "action", "params"),
    [
        (StaticPods(), "kubeadm.rollback", {**BACK, "control_planes": PLANES, "etcd": "v3.6.8"}),
        (Downgrade(), "packages.downgrade", KUBELET),
    ],
)
def test_no_member_of_etcd_restarts_that_the_others_need(lost, doing, action, params):
    hands = Hands(lost)

    with pytest.raises(Refused, match="member cp-3 does not answer: 1 of 3 members of etcd would be left"):
        carried_out(doing, hands, step(action, **params))

    assert hands.done == []


@pytest.mark.parametrize(
    ("doing", "action", "params"),
    [
        (StaticPods(), "kubeadm.rollback", {**BACK, "control_planes": PLANES}),
        (Downgrade(), "packages.downgrade", {**KUBELET, "version": "v1.37.1"}),
    ],
    ids=["the same etcd", "the same minor"],
)
def test_what_restarts_no_etcd_does_not_wait_for_it(lost, doing, action, params):
    assert carried_out(doing, Hands(lost), step(action, **params))


def test_a_failure_says_what_runs(site):
    upgraded(site)

    with pytest.raises(CommandFailed, match="no room") as caught:
        carried_out(StaticPods(), Hands(site, rc=5), step("kubeadm.rollback", **BACK))
    assert "now on cp-1: etcd v3.7.0; kube-apiserver v1.37.2" in caught.value.__notes__[0]
    assert "as it was before" not in caught.value.remedy
    assert caught.value.remedy.splitlines()[0].startswith("orchestrator resume ")


# ---- settings and packages ------------------------------------------------------------------------------------------


def test_settings_are_kubeadms_own_words(site):
    hands, it = Hands(site), step("kubeadm.settings", plan="back-1", version=OLD)

    assert isinstance(Settings().decide(Settings().probe(hands, it), it, {}), Done)
    site.kubernetes = "1.37.2"
    assert Settings().decide(Settings().probe(hands, it), it, {}) == Needed(f"v1.37.2 there, to {OLD}")
    assert carried_out(Settings(), hands, it)[0][1][-1] == OLD


@pytest.mark.parametrize(("names", "restarts"), [(("kubelet", "kubectl"), True), (("kubeadm",), False)])
def test_earlier_packages_are_installed_held_and_a_kubelet_restarted(site, names, restarts):
    upgraded(site)
    it = step("packages.downgrade", plan="back-1", version=OLD, packages=list(names))

    [(_, argv)] = carried_out(Downgrade(), Hands(site), it, before={"held": list(names)})
    script, held, wanted = argv[2], argv[4], argv[6:]
    assert "--allow-downgrades" in script
    assert len(script) > len(INSTALL)
    assert ("systemctl restart kubelet" in script) is restarts
    assert held == " ".join(names)
    assert wanted == [f"{name}=1.36.3-*" for name in names]


def test_a_kubelet_is_back_when_it_runs_not_when_it_is_installed(site):
    machine, it = upgraded(site), step("packages.downgrade", plan="b", version=OLD, packages=["kubelet", "kubectl"])
    hands = Hands(site)
    machine.packages = {name: FakePackage("1.36.3") for name in machine.packages}

    assert isinstance(Downgrade().decide(Downgrade().probe(hands, it), it, {}), Needed)
    machine.running = "1.36.3"
    site.pass_time(FRESH_S)
    assert isinstance(Downgrade().decide(Downgrade().probe(hands, it), it, {}), Done)


def test_a_hold_that_was_found_is_missed(site):
    hands, it = Hands(site), step("packages.downgrade", plan="b", version=OLD, packages=["kubeadm"])
    site.machines["cp-1"].packages["kubeadm"] = FakePackage("1.36.3", held=False)
    now = Downgrade().probe(hands, it)

    assert Downgrade().decide(now, it, {it.id: {**now, "held": ["kubeadm"]}}) == Needed("no longer held: kubeadm")


def test_settings_of_an_api_server_that_is_away_are_not_asked_for(site):
    """Before the run: its own steps bring it back."""
    it = step("kubeadm.settings", plan="back-1", version=OLD, without_api=True)
    asked = Settings().probe(Hands(site), it)
    del site.machines["cp-1"].components["kube-apiserver"]
    hands = Hands(site)

    assert isinstance(Settings().decide(asked, it, {}), Done)
    assert Settings().decide(Settings().probe(hands, it), it, {}) == Needed(f"to {OLD}, if they are not")
