"""Heartbeats, leaders, kubeadm's settings, and requests for APIs that go, as the API server tells them."""

from dataclasses import replace

import pytest

from orchestrator.cluster.model import Renewal, Written
from orchestrator.errors import ApiError
from orchestrator.kube.maintenance import KubeMaintenance
from tests.fakes.server import HangUp, ok, page, said
from tests.fakes.sink import Recorder

LEASES = "/apis/coordination.k8s.io/v1/namespaces"
SETTINGS = "/api/v1/namespaces/kube-system/configmaps/kubeadm-config"
METRICS = """# HELP apiserver_requested_deprecated_apis Gauge of deprecated APIs that have been requested
apiserver_requested_deprecated_apis{group="",removed_release="",resource="endpoints",subresource="",version="v1"} 1
apiserver_requested_deprecated_apis{group="batch",removed_release="1.40",resource="cronjobs",version="v1"} 1
apiserver_requested_deprecated_apis{group="policy",removed_release="1.25",resource="gone",version="v1beta1"} 0
apiserver_request_total{code="200"} 12
"""


@pytest.fixture
def view(server, clock, tmp_path):
    return KubeMaintenance(server.session(tmp_path), clock, Recorder(), patience_s=1.0)


AT = 1795514400.0


def lease(at, said_at="Tue, 24 Nov 2026 10:00:07 GMT"):
    return replace(ok({"spec": {"renewTime": at} if at else {}}), headers={"Date": said_at})


@pytest.mark.parametrize(("at", "found"), [("2026-11-24T10:00:00.500000Z", Renewal(AT + 0.5, AT + 7)), (None, None)])
def test_a_heartbeat_is_the_renewal_of_the_nodes_lease(server, view, at, found):
    server.on("GET", f"{LEASES}/kube-node-lease/leases/n1", lease(at))

    assert view.heartbeat("n1") == found


@pytest.mark.parametrize("headers", [{"Date": ""}, {"Date": "yesterday"}])
def test_a_server_that_does_not_tell_the_time_is_taken_to_have_ours(server, view, clock, headers):
    answer = replace(lease("2026-11-24T10:00:00Z"), headers=headers)
    server.on("GET", f"{LEASES}/kube-node-lease/leases/n1", answer)

    assert view.heartbeat("n1").asked == clock.wall()


def test_a_leader_is_who_renews_the_lease_of_a_component(server, view):
    server.on("GET", f"{LEASES}/kube-system/leases/kube-scheduler", lease("2026-11-24T10:00:00Z"))
    server.on("GET", f"{LEASES}/kube-system/leases/kube-controller-manager", said(404, "no lease"))

    assert (view.leads("kube-scheduler"), view.leads("kube-controller-manager")) == (Renewal(AT, AT + 7), None)


def test_a_glance_is_one_read(server, view):
    server.on("GET", "/api/v1/nodes", ok({"items": []}))

    view.glance()

    assert [str(request) for request in server.requests] == ["GET /api/v1/nodes"]


def test_a_glance_that_meets_a_connection_that_has_ended_is_made_again_at_once(server, view, clock):
    server.on("GET", "/api/v1/nodes", HangUp(), ok({"items": []}))

    view.glance()

    assert clock.now() == 0


@pytest.mark.parametrize("reply", [HangUp(), said(503, "starting")])
def test_a_glance_has_no_patience(server, view, clock, reply):
    server.on("GET", "/api/v1/nodes", reply)

    with pytest.raises(ApiError) as caught:
        view.glance()

    assert caught.value.retryable
    assert clock.now() == 0


def test_settings_are_kubeadms_own(server, view):
    server.on("GET", SETTINGS, ok({"data": {"ClusterConfiguration": "kubernetesVersion: v1.36.3\n"}}))

    assert view.configuration() == "kubernetesVersion: v1.36.3\n"


def test_a_cluster_that_kubeadm_did_not_make_has_none(server, view):
    server.on("GET", SETTINGS, said(404, "not found"))

    assert view.configuration() == ""


def test_deprecated_apis_are_those_that_were_asked_for(server, view):
    server.on("GET", "/metrics", page(200, METRICS, "text/plain"))

    assert view.deprecated() == ("batch/v1/cronjobs@1.40", "v1/endpoints@")


def test_metrics_that_nobody_may_read_are_not_taken_for_none(server, view):
    server.on("GET", "/readyz", page(200, "[+]etcd ok\n", "text/plain"))
    server.on("GET", "/metrics", said(403, "forbidden", reason="Forbidden"))

    assert view.deprecated() is None


def test_a_server_that_is_not_well_is_not_taken_for_a_missing_object(server, view):
    for path in (SETTINGS, f"{LEASES}/kube-node-lease/leases/n1"):
        server.on("GET", path, said(500, "etcd is away"))

    for ask in (view.configuration, lambda: view.heartbeat("n1")):
        with pytest.raises(ApiError):
            ask()


# ---- who wrote in versions that go ------------------------------------------------------------------------------

GROUP = ok({"preferredVersion": {"groupVersion": "flow.io/v1"}})
RESOURCES = ok(
    {
        "resources": [
            {"name": "schemas", "verbs": ["get", "list"]},
            {"name": "schemas/status", "verbs": ["get", "list"]},
            {"name": "reviews", "verbs": ["create"]},
            {"name": "levels", "verbs": ["list"]},
        ]
    }
)


def written(name, *managers, namespace=""):
    fields = [{"manager": who, "apiVersion": version} for who, version in managers]
    return {"metadata": {"name": name, "namespace": namespace, "managedFields": fields}}


def test_objects_tell_who_wrote_them_in_a_version_that_goes(server, view):
    server.on("GET", "/apis/flow.io", GROUP)
    server.on("GET", "/apis/flow.io/v1", RESOURCES)
    helm, admin = ("helm", "flow.io/v1beta3"), ("kubectl", "flow.io/v1beta3")
    schemas = [written("a", helm, ("kubectl", "flow.io/v1")), written("b", helm, admin, namespace="shop"), written("c")]
    server.on("GET", "/apis/flow.io/v1/schemas", ok({"items": schemas}))
    server.on("GET", "/apis/flow.io/v1/levels", ok({"items": [written("l", helm)]}))

    found = view.written(["flow.io/v1beta3"])

    assert found == (
        Written("flow.io/v1beta3/levels", "helm", 1, "l"),
        Written("flow.io/v1beta3/schemas", "helm", 2, "a"),
        Written("flow.io/v1beta3/schemas", "kubectl", 1, "shop/b"),
    )


def test_only_the_resource_that_goes_is_listed_and_by_its_metadata(server, view):
    server.on("GET", "/apis/flow.io", GROUP)
    server.on("GET", "/apis/flow.io/v1", RESOURCES)
    server.on("GET", "/apis/flow.io/v1/levels", ok({"items": []}))

    assert view.written(["flow.io/v1beta3/levels", "flow.io/v1alpha1/others"]) == ()

    (asked,) = [r for r in server.requests if r.path == "/apis/flow.io/v1/levels"]
    assert "PartialObjectMetadataList" in asked.headers["Accept"]


def test_a_group_that_is_not_there_has_nothing_written(server, view):
    server.on("GET", "/apis/gone.io", said(404, "no such group"))

    assert view.written(["gone.io/v1beta1"]) == ()


def test_objects_that_may_not_be_listed_are_not_taken_for_none(server, view):
    server.on("GET", "/readyz", page(200, "[+]etcd ok\n", "text/plain"))
    server.on("GET", "/apis/flow.io", GROUP)
    server.on("GET", "/apis/flow.io/v1", RESOURCES)
    server.on("GET", "/apis/flow.io/v1/levels", said(403, "forbidden", reason="Forbidden"))

    assert view.written(["flow.io/v1beta3/levels"]) is None
