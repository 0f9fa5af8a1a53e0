"""What goes wrong around an upgrade: each fault ends at the wanted version or in a clear refusal, the cluster serving.

One cluster for most of them. A test asks for what it needs, a control plane or a worker at the old or the new version,
so each can be run alone.
"""

import random
import shlex
import signal
import subprocess
import time

import pytest

from lab import progress, ssh
from lab.upgrades import application
from tests.lab.real import lab, until
from tests.lab.upgrading import (
    APPLY,
    ARCHIVES,
    COMPONENTS,
    FILL,
    FRONTEND,
    HOLDER,
    LIST,
    NEW,
    OLD,
    PATIENCE_S,
    PREPARE,
    RESET,
    RESUME,
    as_wanted,
    cut,
    ended,
    events,
    own_cluster,
    seen,
    stale_mirror,
    told_in,
    unharmed,
    until_in_the_middle_of_kubeadm,
    until_told,
    watched,
)

pytestmark = [pytest.mark.lab, pytest.mark.lab_full]
NAME, KILLED = "uf-faults", "uf-killed"
#: Kills while the control plane is upgraded, and then while workers are, which takes a fifth of the time.
KILLS, KILLS_BEFORE, SEED, LONGEST_S, LONGEST_ON_WORKERS_S = 15, 10, 1937, 22, 8
ROLLBACK = ("upgrade", "rollback")
AT_A_VERSION = ("package", "held", "minor", "kubelet", "left")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with own_cluster(NAME, tmp_path_factory.mktemp("faults")) as made:
        for worker in made.workers:
            made.access.ssh(worker, PREPARE)
        made.app = application.deploy(made.access)
        yield made


@pytest.fixture
def operator(site, tmp_path):
    """Somebody with no runs yet."""
    command = site.operator(tmp_path / "operator")
    yield command
    command.end()


def take_back(command, plane):
    """What it said at each of its ends. Data that go back take the run's own lease with them: it may have to resume."""
    words, said = (*ROLLBACK, plane, "--yes", "--ssh"), []
    while len(said) < 5:
        process = command.start(*words)
        process.wait(PATIENCE_S)
        said.append(f"exit code {process.returncode}: {command.stderr[-600:]}")
        progress.say(said[-1])
        if process.returncode == 0:
            return said
        assert process.returncode in (12, 21), said
        words = RESUME[:2]
    raise AssertionError(said)


@pytest.fixture
def old_plane(site):
    """A control plane of the old version, and so all nodes."""
    site.real.until_served(300)
    if site.running()["kube-apiserver"] != f"v{OLD}":
        for worker in site.workers:
            reset(site, worker)
        take_back(site.command, site.plane)
    spread(site)
    return site.plane


@pytest.fixture
def new_plane(site):
    if site.running()["kube-apiserver"] != f"v{NEW}":
        site.command(*APPLY, "--nodes", site.plane, timeout_s=PATIENCE_S)
    return site.plane


@pytest.fixture
def once_upgraded(site):
    """A control plane that has been upgraded, and may have gone back."""
    if not site.access.ssh(site.plane, "ls -d /etc/kubernetes/tmp/kubeadm-backup-manifests-* 2> /dev/null || true"):
        site.command(*APPLY, "--nodes", site.plane, timeout_s=PATIENCE_S)


@pytest.fixture
def gone_back(once_upgraded, old_plane):
    """A control plane of the old version that was of the new one before."""
    return old_plane


@pytest.fixture
def workers(site, new_plane):
    """Two of the old version, behind a control plane of the new one."""
    for worker in site.workers:
        if site.host(worker) != as_wanted(OLD, moved=False) or site.kubelets()[worker] != (f"v{OLD}", False):
            reset(site, worker)
    spread(site)
    return site.workers


@pytest.fixture
def worker(workers):
    return workers[0]


def reset(site, worker):
    """As it was before any upgrade."""
    site.access.ssh(worker, RESET)
    site.real.kubectl("uncordon", worker)
    until(f"{worker} to be as before", lambda: site.kubelets()[worker] == (f"v{OLD}", False))
    site.real.until_ready(worker)


def spread(site):
    """Pods of the application on both workers."""
    pods = site.real.read("-n", site.app.namespace, "pods")["items"]
    if {pod["spec"].get("nodeName") for pod in pods} != set(site.workers):
        renew(site)
    application.settle(site.access)


def renew(site):
    """All pods of the application anew, as nodes can only do that follow what the API has."""
    where = ("-n", site.app.namespace, "rollout")
    site.real.kubectl(*where, "restart", f"deployment/{application.NAME}")
    site.real.kubectl(*where, "status", f"deployment/{application.NAME}", "--timeout=120s")


def gone_over(site, worker):
    """It is at the new version, in service, and nothing is left on its host; each package was moved once."""
    assert site.host(worker) == as_wanted()
    until(f"the API to know {worker}", lambda: site.kubelets()[worker] == (f"v{NEW}", False))
    assert {package: site.installs(worker, package) for package in ("kubeadm", "kubelet")} == {
        "kubeadm": 1,
        "kubelet": 1,
    }


def there(site, plane):
    """A control plane is at the new version. Ways back before may have left copies of its package sources."""
    host, wanted = site.host(plane), as_wanted()
    assert set(host.pop("file")) >= set(wanted.pop("file"))
    assert host == wanted


def untouched(site, worker):
    """Nothing was done to it."""
    assert site.host(worker) == as_wanted(OLD, moved=False)
    assert site.kubelets()[worker] == (f"v{OLD}", False)


# ---- the command itself ---------------------------------------------------------------------------------------------


def until_workers(command, process):
    """Return when it works on workers, or ended."""

    def so():
        told = any(each["event"] == "wave.started" and each["wave"] > 2 for each in events(command))
        return told or process.poll() is not None

    until("workers' turn", so, PATIENCE_S)


def killed_again_and_again(command):
    """Kill it at random moments until it was killed often enough, or is done; the moments.

    One that is resumed while the only API server is away, or has not read its roles, says so and is resumed again.
    """
    chance, moments, words = random.Random(SEED), [], APPLY
    while True:
        process = command.start(*words)
        longest_s = LONGEST_S
        if len(moments) >= KILLS_BEFORE:
            until_workers(command, process)
            longest_s = LONGEST_ON_WORKERS_S
        pause_s = round(chance.uniform(0.5, longest_s), 1)
        try:
            process.wait(pause_s if len(moments) < KILLS else PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            told = events(command)
            moments.append(f"after {pause_s} s: {told[-1].get('step', told[-1]['event']) if told else 'no event yet'}")
            progress.say(f"killed {moments[-1]}")
        else:
            if process.returncode == 0:
                return moments
            assert process.returncode == 12, f"after {moments}:\n{command.stderr}"
            assert "cannot take the run lock" in command.stderr
            progress.say(f"no API server to resume with: {events(command)[-1]['why'][-160:]}")
        words = RESUME if command.runs.exists() and list(command.runs.iterdir()) else APPLY


def test_killed_at_random_moments_it_ends_where_it_should_and_does_nothing_twice(tmp_path):
    with own_cluster(KILLED, tmp_path) as site:
        site.app = application.deploy(site.access)
        with watched(site) as (client, watch):
            moments = killed_again_and_again(site.command)
            unharmed(client, watch)

        backups = site.access.ssh(site.plane, "ls -d /etc/kubernetes/tmp/kubeadm-backup-*").split()
        installs = {(node, name): site.installs(node, name) for node in site.nodes for name in ("kubeadm", "kubelet")}
        progress.say(f"killed {len(moments)} times: {moments}; {backups}")
        assert len(moments) > KILLS - 4
        assert {node: site.host(node) for node in site.nodes} == dict.fromkeys(site.nodes, as_wanted())
        assert site.kubelets() == dict.fromkeys(site.nodes, (f"v{NEW}", False))
        assert {name: site.running()[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{NEW}")
        assert set(installs.values()) == {1}, installs
        assert len([path for path in backups if "manifests" in path]) == 1, backups


# ---- a control plane ------------------------------------------------------------------------------------------------


def test_a_kubeadm_that_fails_says_in_what_state_things_are_and_goes_on_when_it_is_mended(site, old_plane, operator):
    only, tmp = ("--nodes", old_plane), "/etc/kubernetes/tmp"
    site.access.ssh(old_plane, f"if [ -e {tmp} ]; then mv {tmp} {tmp}.kept; fi; : > {tmp}")
    refused = operator(*APPLY, *only, code=11, timeout_s=PATIENCE_S).stderr
    site.access.ssh(old_plane, f"rm {tmp}; if [ -e {tmp}.kept ]; then mv {tmp}.kept {tmp}; fi")

    process = operator.start(*RESUME)
    until_in_the_middle_of_kubeadm(operator, process)
    site.access.ssh(old_plane, "pkill -KILL -x kubeadm")
    killed = ended(operator, process, code=11)
    site.real.until_served(300)
    done = operator(*RESUME, timeout_s=PATIENCE_S)

    progress.say(f"without its directory: {refused[-1500:]}\nkilled: {killed[-1500:]}\n{done.stdout}")
    for said, replaced in ((refused, "kubeadm replaced no manifest"), (killed, "kubeadm replaced etcd.yaml")):
        assert replaced in said
        assert f"now on {old_plane}: " in said
        assert "orchestrator resume " in said
        assert f"orchestrator upgrade rollback {old_plane}" in said
    there(site, old_plane)


def test_a_kubeadm_that_moves_its_manifests_back_by_itself_is_told_and_goes_on_when_it_can(site, old_plane, operator):
    """The kubelet is stopped in the middle: kubeadm waits five minutes for it, and gives up."""
    process = operator.start(*APPLY, "--nodes", old_plane)
    until_in_the_middle_of_kubeadm(operator, process, "kube-controller-manager")
    site.access.ssh(old_plane, "systemctl stop kubelet")
    failed = ended(operator, process, code=11)
    site.access.ssh(old_plane, "systemctl start kubelet")
    moved = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    site.real.until_served(300)
    until("old ones to run", lambda: {site.running().get(name) for name in moved} == {f"v{OLD}"}, 300)

    done = operator(*RESUME, timeout_s=PATIENCE_S)

    progress.say(f"moved back: {failed[-2000:]}\n{done.stdout}")
    assert "and moved them back" in failed
    assert "orchestrator resume " in failed
    there(site, old_plane)


def test_a_kubeadm_that_hangs_is_ended_in_time_and_goes_on_when_resumed(site, old_plane, operator):
    process = operator.start(*APPLY, "--nodes", old_plane, "--kubeadm-timeout", "90s")
    until_in_the_middle_of_kubeadm(operator, process)
    site.access.ssh(old_plane, "pkill -STOP -x kubeadm")
    hung = ended(operator, process, code=11)
    left = site.access.ssh(old_plane, "pidof kubeadm || true")
    site.real.until_served(300)

    done = operator(*RESUME, timeout_s=PATIENCE_S)

    progress.say(f"hung: {hung[-2000:]}\n{done.stdout}")
    assert "kubeadm did not end within 90 s (--kubeadm-timeout), and was ended" in hung
    assert "and did not move them back; copies: " in hung
    assert "orchestrator resume " in hung
    assert f"orchestrator upgrade rollback {old_plane}" in hung
    assert left == ""
    there(site, old_plane)


def test_a_disk_that_fills_under_kubeadm_stops_it_before_anything_is_replaced(site, old_plane, operator):
    """It copies etcd's data first."""
    tmp = "/etc/kubernetes/tmp"
    site.access.ssh(old_plane, f"mkdir -p {tmp}; mount -t tmpfs -o size=4m,mode=700 full {tmp}")
    try:
        refused = operator(*APPLY, "--nodes", old_plane, code=20).stderr
        accepted = ("--accept", "DiskSpace")
        failed = operator(*APPLY, *accepted, "--nodes", old_plane, code=11, timeout_s=PATIENCE_S).stderr
    finally:
        site.access.ssh(old_plane, f"umount {tmp}")
    serves = site.running()
    operator(*RESUME, timeout_s=PATIENCE_S)

    progress.say(f"{refused[-600:]}\n{failed[-1500:]}")
    assert f"DiskSpace ({old_plane})" in " ".join(refused.split())
    assert "No space left on device" in failed
    assert "kubeadm replaced no manifest" in failed
    assert {serves[name] for name in COMPONENTS} == {f"v{OLD}"}
    there(site, old_plane)


def test_a_control_plane_whose_only_api_server_does_not_come_back_is_taken_back_without_it(site, old_plane, operator):
    """Somebody's flag is one that it does not take."""
    known = site.real.read("namespace", "kube-system")["metadata"]["uid"]
    with watched(site, by=site.workers[0]) as (client, watch):
        process = operator.start(*APPLY, "--nodes", old_plane)
        until_told(operator, process, "kubelet.upgrade")
        site.access.ssh(
            old_plane,
            "sed -i '/- kube-apiserver$/a\\    - --no-such-flag' /etc/kubernetes/manifests/kube-apiserver.yaml",
        )
        process.wait(PATIENCE_S)
        stopped = operator.stderr
        shown = operator(*ROLLBACK, old_plane, "--dry-run", code=3, timeout_s=PATIENCE_S)
        done = operator(*ROLLBACK, old_plane, "--yes", timeout_s=PATIENCE_S)
        again = operator(*ROLLBACK, old_plane, "--yes", "--ssh", code=20, timeout_s=PATIENCE_S)
        unharmed(client, watch)
    renew(site)

    running, host = site.running(), site.host(old_plane)
    progress.say(f"{stopped[-1500:]}\n{shown.stdout}{shown.stderr}\n{done.stdout}{done.stderr}\n{again.stderr}")
    assert process.returncode not in (0, 1, 2)
    assert f"orchestrator upgrade rollback {old_plane}" in stopped
    assert "no API server answers" in shown.stderr
    assert {name: running[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{OLD}")
    parts = [part for part in AT_A_VERSION if part != "left"]  # that is of the upgrade, which nobody went on with
    assert {part: host[part] for part in parts} == {part: as_wanted(OLD)[part] for part in parts}
    assert {version for version, _ in site.kubelets().values()} == {f"v{OLD}"}
    assert site.real.read("namespace", "kube-system")["metadata"]["uid"] == known
    site.real.kubectl("uncordon", old_plane)
    site.access.ssh(old_plane, "rm -rf /var/lib/orchestrator")


# ---- workers --------------------------------------------------------------------------------------------------------


def until_half_installed(site, worker, command, process, *, slow_s):
    """Return when dpkg has unpacked the kubelet and configured nothing; it stays there for so long."""
    until_told(command, process, "node.drain")
    site.access.ssh(worker, f"echo {slow_s} > /run/slow")
    slowed = "if [ -e /run/slowed ]; then echo yes; fi"
    until("dpkg to be half-way", lambda: site.access.ssh(worker, slowed) == "yes\n")


def hook(site, worker, script):
    """An option that has a command run on the worker when everything is fetched and nothing is done."""
    words = shlex.join(["ssh", "-F", str(ssh.config(site.real.cluster)), worker, script])
    return "--before-node", words


def test_a_worker_loses_its_power_in_the_middle_of_its_packages(site, worker, operator):
    with watched(site) as (client, watch):
        process = operator.start(*APPLY, "--nodes", worker)
        until_half_installed(site, worker, operator, process, slow_s=60)
        lab("power", worker, "off")
        try:
            until("that to be told", lambda: "retry.scheduled" in operator.stderr)
        finally:
            lab("power", worker, "on")
        said = ended(operator, process, code=11)
        site.real.until_ready(worker)
        broken = site.access.ssh(worker, "dpkg --audit; apt-mark showhold")
        operator(*RESUME, timeout_s=PATIENCE_S)
        unharmed(client, watch)

    progress.say(f"{said[-900:]}\nleft by it: {broken}")
    assert "the host went down" in said
    assert "orchestrator resume " in said
    gone_over(site, worker)


def test_the_network_of_a_worker_is_cut_while_apt_works_there(site, worker, operator):
    with watched(site) as (client, watch):
        process = operator.start(*APPLY, "--nodes", worker)
        until_half_installed(site, worker, operator, process, slow_s=5)
        cut(site, worker, process)
        ended(operator, process)
        seen(operator, "kubelet.upgrade")
        unharmed(client, watch)

    gone_over(site, worker)


def test_the_network_of_a_worker_is_cut_while_it_is_drained(site, worker, operator):
    """Pods that nobody can reach fail whoever asks them, until the cluster knows: that is the network's doing."""
    with watched(site) as (client, _):
        process = operator.start(*APPLY, "--nodes", worker)
        until_told(operator, process, "node.drain")
        cut(site, worker, process)
        ended(operator, process)
        seen(operator, "node.drain")
        application.settle(site.access)
        after = time.time()
        until("answers again", lambda: client.so_far().after(after).asked > 20)
        assert client.stop().after(after).failures == ()

    gone_over(site, worker)


def test_somebody_uncordons_a_worker_during_its_drain(site, worker, operator):
    process = operator.start(*APPLY, "--nodes", worker)
    until_told(operator, process, "node.drain")
    site.real.kubectl("uncordon", worker)
    said = ended(operator, process, code=20)
    left = site.host(worker)

    progress.say(said[-900:])
    assert "takes new pods" in said
    assert (left["kubelet"], left["held"]) == ([f"v{OLD}"], as_wanted()["held"])
    with watched(site) as (client, watch):
        operator(*RESUME, timeout_s=PATIENCE_S)
        unharmed(client, watch)
        assert [each.node for each in watch.stop().cordons] == [worker]
    gone_over(site, worker)


def test_somebody_uncordons_a_worker_between_its_drain_and_its_kubelet(site, worker, operator):
    process = operator.start(*APPLY, "--nodes", worker)
    until_told(operator, process, "node.drain")
    process.send_signal(signal.SIGTERM)
    said = ended(operator, process, code=130)
    assert site.kubelets()[worker] == (f"v{OLD}", True)

    site.real.kubectl("uncordon", worker)
    with watched(site) as (client, watch):
        done = operator(*RESUME, timeout_s=PATIENCE_S)
        unharmed(client, watch)
        cordons = watch.stop().cordons

    again = [each["action"] for each in told_in(done.stderr) if each["event"] == "step.finished"]
    progress.say(f"{said[-400:]}\nagain: {again}")
    assert again.index("node.cordon") < again.index("kubelet.upgrade")
    assert [each.node for each in cordons] == [worker]
    gone_over(site, worker)


def test_a_second_operator_is_told_who_is_at_work_and_changes_nothing(site, workers, operator, tmp_path):
    first, second = workers
    process = operator.start(*APPLY, "--nodes", first, "--owner", "the-first")
    until_told(operator, process, "node.drain")
    refused = site.operator(tmp_path / "second")(*APPLY, "--nodes", second, "--owner", "the-second", code=21).stderr
    ended(operator, process)

    progress.say(refused[-600:])
    assert "the-first" in refused
    untouched(site, second)
    gone_over(site, first)


def test_a_node_that_is_not_offered_the_version_stops_all_before_anything_is_changed(site, workers, operator, tmp_path):
    lacking, other = workers
    with stale_mirror(tmp_path) as address:
        site.access.ssh(lacking, f"sed -i 's#http://[^/]*/#http://{address}/#' {LIST}")
        try:
            refused = operator(*APPLY, "--nodes", ",".join(workers), code=20).stderr
            before = site.host(lacking)
        finally:
            site.access.ssh(lacking, f"cp -a /root/before.list {LIST}")

    progress.say(refused[-900:])
    assert "PackageVersion" in refused
    assert f"is not offered to 1 of the nodes that need it: {lacking} (" in " ".join(refused.split())
    assert not operator.runs.exists()
    assert before == as_wanted(OLD, moved=False)
    untouched(site, other)


def test_a_lock_of_dpkg_is_found_before_anything_is_changed(site, worker, operator):
    holder = site.access.ssh(worker, HOLDER)
    try:
        refused = operator(*APPLY, "--nodes", worker, code=20).stderr
    finally:
        site.access.ssh(worker, "touch /run/let-go")

    progress.say(refused[-600:])
    assert f"PackageLock ({worker}): {FRONTEND} is held by process {holder}" in " ".join(refused.split())
    untouched(site, worker)


def test_apt_waits_for_a_lock_that_somebody_takes_later(site, worker, operator):
    process = operator.start(*APPLY, "--nodes", worker, *hook(site, worker, HOLDER))
    until_told(operator, process, "packages.install")
    waits = "cat /var/lib/orchestrator/*/*packages.install/std* 2> /dev/null || true"
    until("apt to wait", lambda: "lock" in site.access.ssh(worker, waits))
    said = site.access.ssh(worker, waits)
    site.access.ssh(worker, "touch /run/let-go")
    ended(operator, process)

    progress.say(said[-400:])
    seen(operator, "packages.install")
    gone_over(site, worker)


def test_a_full_disk_is_found_before_anything_is_changed(site, worker, operator):
    site.access.ssh(worker, FILL)
    try:
        refused = operator(*APPLY, "--nodes", worker, code=20).stderr
    finally:
        site.access.ssh(worker, f"umount {ARCHIVES}")

    progress.say(refused[-600:])
    assert f"DiskSpace ({worker}): {ARCHIVES} has " in " ".join(refused.split())
    untouched(site, worker)


def test_a_disk_that_fills_later_stops_the_run_which_goes_on_when_there_is_room(site, worker, operator):
    with watched(site) as (client, watch):
        stopped = operator(*APPLY, "--nodes", worker, *hook(site, worker, FILL), code=11, timeout_s=PATIENCE_S).stderr
        left, cordoned = site.host(worker), site.kubelets()[worker]
        site.access.ssh(worker, f"umount {ARCHIVES}")
        operator(*RESUME, timeout_s=PATIENCE_S)
        unharmed(client, watch)

    progress.say(stopped[-900:])
    assert "free space" in stopped
    assert left["held"] == as_wanted()["held"]
    assert left["package"] == as_wanted(OLD)["package"]
    assert cordoned == (f"v{OLD}", False)
    gone_over(site, worker)


# ---- back -----------------------------------------------------------------------------------------------------------


def test_a_control_plane_goes_back(site, workers, new_plane, operator):
    known, before = site.real.read("namespace", "kube-system")["metadata"]["uid"], site.running()["etcd"]
    with watched(site, by=workers[0]) as (client, watch):
        said = take_back(operator, new_plane)
        running, host = site.running(), site.host(new_plane)
        # kubeadm leaves a new etcd in place when what comes after it fails: then the next upgrade replaced none.
        aside = site.access.ssh(new_plane, "ls $(ls -td /etc/kubernetes/tmp/rollback-* | head -n 1)")
        renew(site)
        unharmed(client, watch)

    progress.say(f"{said}\nafterwards: {running}; {host}")
    assert {name: running[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{OLD}")
    assert ("3.6.8" if "etcd.yaml" in aside else before) in running["etcd"]
    assert {part: host[part] for part in AT_A_VERSION} == {part: as_wanted(OLD)[part] for part in AT_A_VERSION}
    assert site.kubelets() == dict.fromkeys(site.nodes, (f"v{OLD}", False))
    assert site.real.read("namespace", "kube-system")["metadata"]["uid"] == known


def test_one_that_went_back_is_upgraded_again_though_its_network_is_cut_meanwhile(site, gone_back, operator):
    with watched(site, by=site.workers[0]) as (client, watch):
        process = operator.start(*APPLY, "--nodes", gone_back)
        until_in_the_middle_of_kubeadm(operator, process)
        cut(site, gone_back, process)
        ended(operator, process)
        seen(operator, "kubeadm.upgrade")
        unharmed(client, watch)

    there(site, gone_back)
    assert {name: site.running()[name] for name in COMPONENTS} == dict.fromkeys(COMPONENTS, f"v{NEW}")
