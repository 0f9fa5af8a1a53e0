"""Those who watch an upgrade from outside: they see what goes wrong, so what they did not see did not happen."""

import json
import time

import pytest

from lab.upgrades import application, asking
from lab.upgrades.access import Access
from lab.upgrades.askers import ApiClient, EtcdWatch, NodeAsker, ServiceClient, Target
from lab.upgrades.budgets import BudgetWatch
from tests.lab.real import WORKER, until

pytestmark = pytest.mark.lab
EVERY_S = 0.1


@pytest.fixture(scope="module")
def access(real):
    return Access(real.cluster)


@pytest.fixture(scope="module")
def app(access, place):
    return application.deploy(access, namespace=place.name)


@pytest.fixture(scope="module")
def client(access, app):
    """Asks during the whole module."""
    with ServiceClient(access, app) as all_the_time:
        yield all_the_time


@pytest.fixture
def watch(access, app, place):
    with BudgetWatch(access, place.name) as watching:
        yield watching


def scale(place, replicas):
    place.kubectl("scale", "deployment", application.NAME, f"--replicas={replicas}")


def web(place):
    return sorted(name for name in place.pods() if name.startswith(application.NAME))


def evict(place, pod):
    """As a drain does it, the budget asked."""
    asked = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": place.name},
    }
    path = f"/api/v1/namespaces/{place.name}/pods/{pod}/eviction"
    place.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(asked))


def test_nobody_notices_an_eviction_that_the_budget_allows(access, app, place, client, watch):
    began, pod = time.time(), web(place)[0]

    evict(place, pod)
    until("it to be gone", lambda: pod not in place.pods())
    application.settle(access, namespace=place.name)

    answers = client.so_far().after(began)
    assert answers.asked >= 20
    assert answers.failures == (), str(answers)
    assert watch.so_far().shortages == ()


def test_pods_that_are_deleted_past_the_budget_are_noticed_by_who_watches_it(access, app, place, watch):
    began, pods = time.time(), web(place)[:2]

    place.kubectl("delete", "pod", *pods, "--wait=false")
    until("the shortage", lambda: watch.so_far().shortages)
    application.settle(access, namespace=place.name)
    until("its end", lambda: watch.so_far().shortages[-1].until)

    shortage = watch.stop().shortages[0]
    assert (shortage.budget, shortage.ready, shortage.needed) == (f"{place.name}/{application.NAME}", 2, app.needed)
    assert began < shortage.since < shortage.until < time.time()


def test_a_cordon_is_timed_from_outside(real, watch):
    real.kubectl("cordon", WORKER)
    until("it to be seen", lambda: watch.so_far().cordons)
    between = time.time()
    real.kubectl("uncordon", WORKER)
    until("its end", lambda: watch.so_far().cordons[0].until)

    cordon = watch.stop().cordons[0]
    assert cordon.node == WORKER
    assert cordon.since < between < cordon.until


def test_an_application_that_is_gone_is_noticed_by_who_asks_it(access, app, place, client):
    began = time.time()

    scale(place, 0)
    until("failures", lambda: len(client.so_far().after(began).failures) > 5)
    scale(place, app.replicas)
    application.settle(access, namespace=place.name)

    def answered():  # a kube-proxy hears of the new pods after the API server does
        last = client.so_far().each[-10:]
        return all(one.right for one in last)

    until("right answers again", answered)

    answers = client.so_far()
    assert answers.failures != ()
    assert answers.longest_outage_s > EVERY_S
    assert answers.longest_gap_s >= answers.longest_outage_s


@pytest.mark.parametrize(
    ("host", "path", "body", "said"),
    [
        ("", "/", application.CONTENT, asking.RIGHT),
        ("", "/", "something-else", "another content"),
        ("", "/nothing", application.CONTENT, "status 404"),
        ("127.0.0.1", "/", application.CONTENT, "ConnectionRefusedError"),
    ],
)
def test_only_the_right_content_is_an_answer(access, app, host, path, body, said):
    target = Target("web", host or app.address, application.PORT, path, body)
    asker = NodeAsker(access, WORKER, [target], every_s=EVERY_S, timeout_s=1.0)

    asker.start()
    found = asker.stop()["web"]

    assert all(one.said.startswith(said) for one in found.each)


def test_who_was_killed_on_its_node_comes_back_and_the_gap_is_told(real, access, app):
    target = Target("web", app.address, application.PORT, "/", application.CONTENT)
    asker = NodeAsker(access, WORKER, [target], every_s=EVERY_S, timeout_s=1.0)
    asker.start()

    real.ssh(WORKER, "pkill -KILL -f ^/usr/bin/python3.*/lab-asking")
    killed = time.time()
    until("more answers", lambda: len(asker.so_far()["web"].after(killed).each) > 3)

    assert asker.stop()["web"].failures == ()
    assert real.ssh(WORKER, "ls /var/tmp/lab-asking") == ""


def test_an_api_server_that_does_not_answer_is_noticed(access):
    address = access.control_planes()[0].address
    right, wrong = f"https://{address}:6443", f"https://{address}:1"
    with ApiClient(access) as usual, ApiClient(access, right) as direct, ApiClient(access, wrong) as nobody:
        until("answers", lambda: min(each.so_far().asked for each in (usual, direct, nobody)) > 5)

    assert usual.stop().failures == ()
    assert direct.stop().failures == ()
    assert len(nobody.stop().failures) == nobody.stop().asked
    assert nobody.stop().longest_outage_s > 0.9


def test_a_member_of_etcd_that_stands_still_is_noticed(real, access):
    control_plane = access.control_planes()[0].name
    with EtcdWatch(access) as watch:
        before = watch.so_far()
        real.ssh(control_plane, "pkill -STOP -x etcd")
        try:
            until("it to be seen", lambda: watch.so_far().without_quorum)
        finally:
            real.ssh(control_plane, "pkill -CONT -x etcd")
    real.until_ready(control_plane)

    seen = watch.stop()
    assert before.without_quorum == ()
    assert (seen.members, seen.lowest) == (1, 0)
    assert seen.longest_unable_s >= 0.5
