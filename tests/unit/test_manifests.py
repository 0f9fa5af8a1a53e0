"""What is left of an object so that it can be applied again, and what has to stay; and its YAML."""

import copy

import pytest
import yaml

from orchestrator.cluster.manifests import applicable
from orchestrator.report.manifests import as_json, as_yaml

SERVERS = {
    "uid": "u-1",
    "resourceVersion": "17",
    "generation": 2,
    "creationTimestamp": "2027-01-15T02:00:00Z",
    "managedFields": [{"manager": "kubectl"}],
    "selfLink": "/api/v1",
    "deletionTimestamp": "2027-01-15T02:00:00Z",
    "deletionGracePeriodSeconds": 30,
}


def stored(kind, version="v1", metadata=None, **fields):
    """As a server has it."""
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": "x", "namespace": "shop", **SERVERS, **(metadata or {})},
        **fields,
    }


def made(*words, **fields):
    return applicable(stored(*words, **fields))


def test_what_only_the_server_writes_goes_and_the_rest_stays():
    subject = stored("ConfigMap", metadata={"labels": {"app": "x"}}, data={"a": ""}, status={"phase": "x"})
    before = copy.deepcopy(subject)

    found = applicable(subject)

    metadata = {"name": "x", "namespace": "shop", "labels": {"app": "x"}}
    assert found.manifest == {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": ""}}
    assert found.notes == ()
    assert subject == before


def test_what_is_empty_on_purpose_is_not_cleaned_away():
    spec = {"template": {"spec": {"volumes": [{"name": "tmp", "emptyDir": {}}]}}, "paused": False, "replicas": 0}

    assert made("Deployment", "apps/v1", spec=spec).manifest["spec"] == spec


def test_an_object_without_metadata_or_with_a_scalar_where_a_map_is_expected_is_left_as_it_is():
    assert applicable({"kind": "Odd", "spec": "text"}).manifest == {"kind": "Odd", "spec": "text", "metadata": {}}


def test_owners_go_because_the_garbage_collector_would_delete_it_and_that_is_said():
    owners = [{"kind": "Deployment", "name": "web", "uid": "gone"}]

    found = made("ReplicaSet", "apps/v1", metadata={"ownerReferences": owners})

    assert "ownerReferences" not in found.manifest["metadata"]
    (note,) = found.notes
    assert "Deployment web" in note


def test_finalizers_stay_and_are_pointed_at():
    found = made("Widget", "example.com/v1", metadata={"finalizers": ["example.com/wait"]})

    assert found.manifest["metadata"]["finalizers"] == ["example.com/wait"]
    (note,) = found.notes
    assert "example.com/wait" in note


def test_annotations_that_are_written_anew_go_and_others_stay():
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": "{}", "deployment.kubernetes.io/revision": "3"}

    alone = made("Deployment", "apps/v1", metadata={"annotations": dict(annotations)})
    others = made("Deployment", "apps/v1", metadata={"annotations": {**annotations, "team": "a"}})

    assert "annotations" not in alone.manifest["metadata"]
    assert others.manifest["metadata"]["annotations"] == {"team": "a"}


def test_a_template_that_was_never_created_has_no_time_of_creation():
    spec = {"template": {"metadata": {"creationTimestamp": None, "labels": {"a": "b"}}}}

    assert made("Deployment", "apps/v1", spec=spec).manifest["spec"]["template"]["metadata"] == {"labels": {"a": "b"}}


def test_a_service_gets_another_address_and_keeps_its_node_ports():
    spec = {
        "clusterIP": "10.0.0.7",
        "clusterIPs": ["10.0.0.7"],
        "healthCheckNodePort": 31000,
        "ports": [{"port": 80, "nodePort": 30080}],
    }

    found = made("Service", spec=spec)

    assert found.manifest["spec"] == {"ports": [{"port": 80, "nodePort": 30080}]}
    assert "10.0.0.7" in found.notes[0]


@pytest.mark.parametrize("spec", [{"clusterIP": "None", "clusterIPs": ["None"]}, {"type": "ExternalName"}])
def test_a_service_without_an_address_stays_so(spec):
    found = made("Service", spec=spec)

    assert (found.manifest["spec"], found.notes) == (spec, ())


def test_a_service_whose_address_is_empty_has_nothing_to_be_told_of():
    assert made("Service", spec={"clusterIP": ""}).notes == ()


def test_a_job_loses_the_selector_that_was_made_from_its_uid():
    labels = {"controller-uid": "u", "batch.kubernetes.io/controller-uid": "u", "job-name": "x", "app": "x"}
    template = {"metadata": {"labels": dict(labels)}, "spec": {}}
    subject = {"selector": {"matchLabels": {"controller-uid": "u"}}, "template": template}

    found = made("Job", "batch/v1", metadata={"labels": dict(labels)}, spec=subject)

    assert found.manifest["spec"] == {"template": {"metadata": {"labels": {"app": "x"}}, "spec": {}}}
    assert found.manifest["metadata"]["labels"] == {"app": "x"}
    assert found.notes == ("it runs anew when it is applied",)


def test_a_job_with_a_selector_of_its_own_keeps_it():
    spec = {"manualSelector": True, "selector": {"matchLabels": {"a": "b"}}}

    assert made("Job", "batch/v1", spec=spec).manifest["spec"] == spec


def test_a_kind_of_the_same_name_in_another_group_is_another_kind():
    spec = {"selector": {"a": "b"}}

    assert made("Job", "batch.example.com/v1", spec=spec).manifest["spec"] == spec


def test_a_pod_is_scheduled_anew():
    assert made("Pod", spec={"nodeName": "n", "containers": []}).manifest["spec"] == {"containers": []}


def test_a_claim_keeps_its_volume_because_another_one_would_be_empty():
    annotations = {"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"}

    found = made("PersistentVolumeClaim", metadata={"annotations": annotations}, spec={"volumeName": "pv-7"})

    assert found.manifest["spec"] == {"volumeName": "pv-7"}
    assert "annotations" not in found.manifest["metadata"]
    assert "pv-7" in found.notes[0]
    assert made("PersistentVolumeClaim", spec={}).notes == ()


def test_a_volume_may_be_had_by_a_claim_of_the_same_name():
    claim = {"namespace": "shop", "name": "data", "uid": "u", "resourceVersion": "3"}

    found = made("PersistentVolume", spec={"claimRef": claim})

    assert found.manifest["spec"]["claimRef"] == {"namespace": "shop", "name": "data"}


def test_the_token_of_a_service_account_is_the_servers_and_other_secrets_are_whole():
    annotations = {"kubernetes.io/service-account.name": "a", "kubernetes.io/service-account.uid": "u"}
    token = "kubernetes.io/service-account-token"

    found = made("Secret", metadata={"annotations": annotations}, type=token, data={"token": "eA=="})
    opaque = made("Secret", type="Opaque", data={"a": "eA=="})

    assert "data" not in found.manifest
    assert found.manifest["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "a"}
    assert "token" in found.notes[0]
    assert opaque.manifest["data"] == {"a": "eA=="}


# ---- as text --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["y", "N", "1e3", "0o17", "007", "-1", "+1", ".5", "25%", "1_000", "2027-01-15"])
def test_a_text_that_kubectl_might_read_as_something_else_is_quoted(text):
    assert as_yaml({"a": text}) == f"a: '{text}'\n"
    assert as_yaml({text: "a"}) == f"'{text}': a\n"


@pytest.mark.parametrize("text", ["yes", "null", "~", "true", "", "<<", "on"])
def test_words_of_yaml_stay_texts(text):
    assert yaml.safe_load(as_yaml({"a": text, text: "b"})) == {"a": text, text: "b"}


def test_lines_are_shown_as_lines():
    assert as_yaml({"a": "x\n  y\n"}) == "a: |\n  x\n    y\n"


@pytest.mark.parametrize("text", ["x\n", "x\n\n", "\nx", "  x\ny", "x \ny", "a\tb\nc", "\x00\n", "é\nü", "x" * 5000])
def test_every_text_comes_back_as_it_was(text):
    assert yaml.safe_load(as_yaml({"a": text})) == {"a": text}


def test_numbers_and_truth_stay_what_they_are():
    assert as_yaml({"a": 1, "b": True, "c": None, "d": 0.5, "e": []}) == "a: 1\nb: true\nc: null\nd: 0.5\ne: []\n"


def test_json_is_json():
    assert as_json({"a": "y"}) == '{\n  "a": "y"\n}\n'
