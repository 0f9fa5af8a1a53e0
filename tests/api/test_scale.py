"""A cluster of thousands of nodes: what a command costs must not grow with what it does not look at."""

import pytest

from lab.api import objects

pytestmark = [pytest.mark.api, pytest.mark.lab_full]

NODES = 3000
PODS = 4


@pytest.fixture(scope="module")
def crowd(load):
    names = [f"crowd-{number}" for number in range(NODES)]
    objects.ensure_nodes(load, names)
    load.create(*(objects.pod(f"{name}-{i}", name) for name in names for i in range(PODS)))
    last = f"/api/v1/namespaces/default/pods/{names[-1]}-{PODS - 1}"
    load.wait("the pods to run", lambda: load.get(last)["status"].get("phase") == "Running", timeout_s=300)
    return names


def test_a_drain_among_thousands_of_nodes_asks_for_one_nodes_pods_only(crowd, orchestrator, requests):
    orchestrator("drain", crowd[7], "--force")

    asked = requests()
    lists = [uri for verb, uri, _ in asked if verb == "list" and "/pods" in uri]
    assert all(f"spec.nodeName%3D{crowd[7]}" in uri for uri in lists), lists
    assert len(asked) < 20 + PODS


def test_status_of_thousands_of_nodes_has_them_all(crowd, orchestrator):
    found = orchestrator.json("status")

    assert found["summary"]["nodes"] == NODES + 2
    assert len(orchestrator.json("unmanaged")["pods"]) >= (NODES - 1) * PODS


def test_the_table_of_thousands_of_nodes_fits_a_screen_or_two(crowd, orchestrator):
    said = orchestrator("status").stdout

    assert len(said.splitlines()) < 150
