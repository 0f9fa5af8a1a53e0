"""A real cluster of three control planes gets a lost member of etcd back, whatever became of it, while it serves."""

import json
import signal
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from lab import cluster, progress
from lab.state import Shape
from lab.upgrades.access import Access
from lab.upgrades.askers import ApiClient
from orchestrator.kube.lease import NAME, NAMESPACE
from tests.api.command import PROGRAM, Command
from tests.lab.real import Real, lab, until
from tests.lab.upgrading import OLD, ended, join_anew, own_cluster, told_in, until_told

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
#: Of the API through the load balancer; each answer is waited for as long.
AWAY_S = 5.0
REPLACE = ("etcd", "replace-member")
HOW = ("--yes", "--ssh", "--log-format", "json")

_ETCDCTL = r"""
bin=/proc/$(pidof -s etcd)/root/usr/local/bin; p=/etc/kubernetes/pki/etcd
ctl() {
  "$bin/etcdctl" --endpoints=https://127.0.0.1:2379 --cacert=$p/ca.crt --cert=$p/server.crt --key=$p/server.key "$@"
}
"""
#: What becomes of a member, and what its host says once it is so.
LOST = "rm -rf /var/lib/etcd/member; kill -9 $(pidof etcd)"
KEEP = "rm -rf /root/old; cp -a /var/lib/etcd/member /root/old"
OUTDATED = r"""
mv /etc/kubernetes/manifests/etcd.yaml /root/etcd.yaml; while pidof etcd > /dev/null; do sleep 0.2; done
rm -rf /var/lib/etcd/member; mv /root/old /var/lib/etcd/member; mv /root/etcd.yaml /etc/kubernetes/manifests/etcd.yaml
"""
BOOTED = "truncate -s 100k /var/lib/etcd/member/snap/db; kill -9 $(pidof etcd); sleep 1; systemctl reboot; true"
#: A value changes in the database that etcd has mapped, as by a disk or by memory.
SPOILT = r"""
db=/var/lib/etcd/member/snap/db
grep -abo right-as-rain $db | cut -d: -f1 | while read -r at; do
  printf wrong | dd of=$db bs=1 seek="$at" conv=notrunc status=none
done
grep -q wrong-as-rain $db
"""
#: What the leader asks for when its check of the members finds one that differs.
#: Source: etcd, `corrupt.go`, `triggerCorruptAlarm`; "gRPC gateway".
ALARM = r"""
p=/etc/kubernetes/pki/etcd
curl -sS --fail --cacert $p/ca.crt --cert $p/server.crt --key $p/server.key \
  https://127.0.0.1:2379/v3/maintenance/alarm -d '{"action": "ACTIVATE", "memberID": "%d", "alarm": "CORRUPT"}'
"""
LEFT = "ls -d /var/lib/etcd.* /etc/kubernetes/orchestrator-* /var/lib/orchestrator 2> /dev/null || true"


@dataclass
class Replacing:
    """The cluster, the command, and the members behind its back."""

    real: Real
    access: Access
    command: Command

    @property
    def planes(self):
        return [node.name for node in self.access.control_planes()]

    def ctl(self, node, words):
        return self.access.ssh(node, f"{_ETCDCTL}\nctl {words}")

    def members(self):
        """Node -> member, as `etcd status` has them; none while etcd just restarts, and tells half."""
        argv = [PROGRAM, "etcd", "status", "--ssh", "-o", "json"]
        done = subprocess.run(argv, env=self.command.environ, capture_output=True, timeout=120, check=False)
        return {m["node"]: m for m in json.loads(done.stdout)["members"]} if done.returncode == 0 else {}

    def victim(self, *, leads=False):
        """A control plane whose member follows, or the one whose member leads."""
        return next(node for node, m in sorted(self.members().items()) if m["leader"] is leads)

    def well(self):
        """All three answer, vote, and have the same keys."""
        members = self.members()
        if len(members) < 3 or any(m["health"] or m["learner"] for m in members.values()):
            return False
        at = f"endpoint hashkv --rev={min(m['revision'] for m in members.values())} -w json"
        told = [json.loads(self.ctl(node, at)) for node in self.planes]
        return len({each["HashKV"]["hash"] for answer in told for each in answer}) == 1

    def unlocked(self):
        """Whether nobody holds the lock of runs, or has not renewed it for as long as it lasts."""
        found = self.real.kubectl("get", "lease", NAME, f"--namespace={NAMESPACE}", "--ignore-not-found", "-o", "json")
        if not found:
            return True
        spec = json.loads(found)["spec"]
        lasts = timedelta(seconds=spec["leaseDurationSeconds"])
        return datetime.now(UTC) > datetime.fromisoformat(spec["renewTime"]) + lasts

    def written(self, name):
        self.real.kubectl("create", "configmap", name, "--from-literal=a=b")

    def has(self, node, name):
        """Whether the member of a node itself has it."""
        key = f"/registry/configmaps/default/{name}"
        return key in self.ctl(node, f"get {key} --consistency=s --keys-only").split()

    def break_(self, node, script):
        """Something happens to a member; returns once the others miss it."""
        self.access.ssh(node, script)
        until(f"the member of {node} to be missed", lambda: self.members().get(node, {}).get("health"), 60)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with own_cluster("rm-replace", tmp_path_factory.mktemp("replace"), shape=Shape(3, 1), offered=(OLD,)) as made:
        yield Replacing(made.real, made.access, made.command)


@pytest.fixture(autouse=True)
def whole(site):
    """Each test finds three members that are well, and leaves them so."""
    until("three members", site.well)
    yield
    until("three members", site.well)


def killed_at_each_step(site, process, after_s):
    """`kill -9` once for each step, so long after the command says that it begins it; resumed each time. How often."""
    done = set()

    def told():
        began = [e["step"] for e in told_in(site.command.stderr) if e["event"] == "step.started"]
        fresh = next((step for step in began if step not in done), "")
        return fresh or process.poll() is not None

    while True:
        until("a step, or the end", told, 300)
        if process.poll() is not None:
            assert process.returncode == 0, site.command.stderr
            return sorted(done, key=lambda step: int(step.partition("/")[0]))
        done.update(e["step"] for e in told_in(site.command.stderr) if e["event"] == "step.started")
        time.sleep(after_s)  # the moment is what the test is about
        process.kill()
        process.wait()
        process = site.command.start("resume", "last", "--log-format", "json")


def test_a_member_whose_data_are_gone_is_replaced_while_the_api_serves(site):
    node = site.victim()
    site.written("before")
    site.break_(node, LOST)

    with ApiClient(site.access) as client:
        process = site.command.start(*REPLACE, node, *HOW)
        until_told(site.command, process, "member.start")
        site.written("meanwhile")
        said = ended(site.command, process)
        answers = client.stop()

    took = {e["step"]: e["took_s"] for e in told_in(said) if e["event"] == "step.finished"}
    progress.say(f"{took}\nAPI: {answers}")
    assert answers.longest_outage_s <= AWAY_S, answers.outages
    assert all(site.has(plane, name) for plane in site.planes for name in ("before", "meanwhile"))
    site.real.until_ready(node)

    assert "etcd.before-replace" in site.access.ssh(node, LEFT)  # the old data, until somebody says that it is good
    run = site.command.json("runs")["runs"][0]["id"]
    refused = site.command("release", run, "--yes", code=20)
    assert "they cannot be used again" in refused.stderr
    site.command(*REPLACE, "--confirm", run, "--yes", "--ssh")
    assert {plane: site.access.ssh(plane, LEFT).split() for plane in site.planes} == {p: [] for p in site.planes}


def test_a_member_that_was_broken_when_its_host_booted_is_replaced(site):
    """Its kubelet asks the API server of its own host, so it has heard of no pod, and would end no static pod."""
    node = site.victim()
    site.written("before-boot")
    site.break_(node, BOOTED)
    asked = "systemctl is-active kubelet 2> /dev/null || true"
    until("its kubelet", lambda: lab("ssh", node, "--", asked, code=None).stdout == b"active\n")

    site.command(*REPLACE, node, "--yes", "--ssh", timeout_s=600)

    assert all(site.has(plane, "before-boot") for plane in site.planes)
    site.real.until_ready(node)
    site.command(*REPLACE, "--confirm", "last", "--yes", "--ssh")
    assert site.access.ssh(node, LEFT).split() == []


def test_a_member_whose_data_are_corrupt_is_replaced_though_its_alarm_bars_all_writes(site):
    node = site.victim()
    other = next(plane for plane in site.planes if plane != node)
    site.real.kubectl("create", "configmap", "weather", "--from-literal=it=right-as-rain")
    until("it there", lambda: site.has(node, "weather"))
    site.access.ssh(node, SPOILT)
    site.access.ssh(other, ALARM % int(site.members()[node]["id"], 16))
    barred = site.access.attempt("create", "configmap", "barred")
    sound = site.command("etcd", "backup", "--to", f"{site.command.home}/sound", "--ssh")

    done = site.command(*REPLACE, node, "--yes", "--ssh", timeout_s=600)

    progress.say(done.stderr)
    assert "corrupt" in barred.stderr
    assert f"none is taken of {node}" in sound.stderr
    key = "get /registry/configmaps/default/weather --consistency=s"
    assert all("right-as-rain" in site.ctl(plane, key) for plane in site.planes)
    site.written("after-the-alarm")
    site.real.until_ready(node)


def test_killed_at_each_step_a_member_of_an_old_state_is_replaced(site):
    node = site.victim()
    site.access.ssh(node, KEEP)
    site.written("later")
    site.break_(node, OUTDATED)

    with ApiClient(site.access) as client:
        steps = killed_at_each_step(site, site.command.start(*REPLACE, node, *HOW), 0.0)
        answers = client.stop()

    progress.say(f"killed at {steps}\nAPI: {answers}")
    assert len(steps) >= 11
    assert answers.longest_outage_s <= AWAY_S, answers.outages
    assert site.has(node, "later")


def test_killed_in_each_step_a_member_that_was_removed_already_is_replaced(site):
    node = site.victim()
    other = next(plane for plane in site.planes if plane != node)
    listed = json.loads(site.ctl(other, "member list -w json"))["members"]
    number = next(m["ID"] for m in listed if m["name"] == node)
    site.ctl(other, f"member remove {number:x}")
    until("it to end", lambda: site.access.ssh(node, "pidof etcd || true").strip() == "", 60)

    with ApiClient(site.access) as client:
        steps = killed_at_each_step(site, site.command.start(*REPLACE, node, *HOW), 0.6)
        answers = client.stop()

    progress.say(f"killed in {steps}\nAPI: {answers}")
    assert answers.longest_outage_s <= AWAY_S, answers.outages


def test_a_learner_that_never_got_its_vote_gets_it(site):
    node = site.victim()
    site.break_(node, LOST)
    process = site.command.start(*REPLACE, node, *HOW)
    until_told(site.command, process, "member.start", event="step.finished")
    process.kill()
    process.wait()
    until("the learner to follow", lambda: (site.members().get(node, {}).get("revision") or 0) > 0, 60)
    refused = site.command(*REPLACE, node, "--yes", "--ssh", code=20)
    until("the lock of the killed one to run out", site.unlocked, 60)
    site.access.ssh(node, "mv /etc/kubernetes/orchestrator-*/*.yaml /etc/kubernetes/manifests/")

    said = site.command(*REPLACE, node, "--yes", "--ssh", timeout_s=300)

    assert "an earlier run" in refused.stderr
    assert "it only gets its vote" in said.stderr
    site.command("resume", site.command.json("runs")["runs"][1]["id"], timeout_s=300)  # there is nothing left to do


def test_before_its_member_is_taken_out_a_release_starts_the_old_one_again(site):
    node = site.victim(leads=True)
    refused = site.command(*REPLACE, node, "--yes", "--ssh", code=20)
    before = site.members()[node]["id"]

    process = site.command.start(*REPLACE, node, "--accept", "healthy-member", *HOW)
    until_told(site.command, process, "member.aside")
    process.send_signal(signal.SIGINT)
    ended(site.command, process, code=130)
    site.command("release", "last", "--yes", timeout_s=300)

    assert "is well" in refused.stderr
    until("the old one", lambda: site.well() and site.members()[node]["id"] == before)
    assert site.access.ssh(node, LEFT).split() == []
    site.real.until_ready(node)


def test_certificates_that_are_missing_are_named_with_what_makes_them(site):
    node = site.victim()
    site.access.ssh(node, "mv /etc/kubernetes/pki/etcd/peer.crt /root/peer.crt")
    try:
        refused = site.command(*REPLACE, node, "--accept", "healthy-member", "--yes", "--ssh", code=20)
    finally:
        site.access.ssh(node, "mv /root/peer.crt /etc/kubernetes/pki/etcd/peer.crt")

    assert "/etc/kubernetes/pki/etcd/peer.crt" in refused.stderr
    assert "kubeadm init phase certs etcd-server" in " ".join(refused.stderr.split())


def test_a_machine_that_is_gone_is_taken_out_and_another_joins_by_the_lines_of_the_page(site):
    """docs/disaster-recovery.md, “Is the machine gone, too?”; the other machine has the name of the first."""
    node = site.victim()
    other = next(plane for plane in site.planes if plane != node)
    number = int(site.members()[node]["id"], 16)
    machine = next(each for each in site.access.control_planes() if each.name == node)
    cluster.power(machine, site.access.cluster, "off")

    assert f"{number:x}" in site.ctl(other, "member list")
    site.ctl(other, f"member remove {number:x}")
    site.real.kubectl("delete", "node", node)
    cluster.power(machine, site.access.cluster, "on")
    asked = "systemctl is-active containerd 2> /dev/null || true"
    until("it to boot", lambda: lab("ssh", node, "--", asked, code=None).stdout == b"active\n")
    join_anew(site.access, node, other)

    until("its member", lambda: site.well() and site.members()[node]["id"] != f"{number:x}")
    site.real.until_ready(node)
