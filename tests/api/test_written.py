"""What a real API server tells of who wrote its objects, and in which version."""

import pytest

from orchestrator.cluster.model import Written
from orchestrator.engine.clock import SystemClock
from orchestrator.engine.events import Silent
from orchestrator.kube.maintenance import KubeMaintenance
from orchestrator.kube.session import connect

pytestmark = pytest.mark.api
INGRESSES = "networking.k8s.io/v1/ingresses"


@pytest.fixture
def view(plane):
    return KubeMaintenance(connect(str(plane.kubeconfig), None), SystemClock(), Silent())


@pytest.fixture
def ingress(load):
    path = "/apis/networking.k8s.io/v1/namespaces/default/ingresses"
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    made = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "shop", "namespace": "default"},
        "spec": {"defaultBackend": backend},
    }
    load.ask("POST", path, made)
    yield "default/shop"
    load.delete([f"{path}/shop"])


def test_managed_fields_name_the_version_in_which_an_object_was_written(view, ingress):
    (one,) = view.written([INGRESSES, "networking.k8s.io/v1beta1"])

    assert (one.api, one.count, one.example) == (INGRESSES, 1, ingress)
    assert one.manager != ""
    assert view.written(["networking.k8s.io/v1beta1", "no.such.group/v1"]) == ()


def test_all_resources_of_a_version_are_looked_at(view, ingress):
    found = view.written(["networking.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1"])

    assert {INGRESSES, "flowcontrol.apiserver.k8s.io/v1/flowschemas"} <= {one.api for one in found}
    assert all(isinstance(one, Written) and one.count > 0 for one in found)
