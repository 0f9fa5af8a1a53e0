"""What kubeadm says, out of captured answers."""

import json
from pathlib import Path

import pytest

from orchestrator.cluster import kubeadm
from orchestrator.cluster.versions import parse
from orchestrator.errors import FactUnreadable

FACTS = Path(__file__).parent / "facts" / "kubeadm"
MANIFESTS = "/etc/kubernetes/manifests"


def captured(name):
    return (FACTS / name).read_text()


def test_its_version_is_the_whole_answer():
    assert kubeadm.parse_version("v1.36.3\n") == parse("v1.36.3")
    with pytest.raises(FactUnreadable, match="is no version"):
        kubeadm.parse_version("kubeadm: command not found")


def test_complaints_are_found_between_colours_and_reports_fatal_ones_first():
    found = kubeadm.parse_complaints(captured("preflight.refused.txt"))

    assert [(c.check, c.fatal) for c in found] == [("SystemVerification", True), ("ContainerRuntimeVersion", False)]
    assert found[0].text.startswith("cgroups v1 support is deprecated")


def test_a_complaint_that_is_printed_twice_is_one():
    twice = captured("preflight.refused.txt") * 2

    assert kubeadm.parse_complaints(twice) == kubeadm.parse_complaints(captured("preflight.refused.txt"))


def test_a_run_without_complaints_has_none():
    assert [c for c in kubeadm.parse_complaints(captured("node.txt")) if c.fatal] == []


def test_certificates_come_with_those_that_end_first():
    found = kubeadm.parse_certificates(captured("certificates.1.36.json"))

    assert [c.ends for c in found] == sorted(c.ends for c in found)
    assert {c.name for c in found if c.authority} == {"ca", "etcd-ca", "front-proxy-ca"}
    assert {"admin.conf", "apiserver", "etcd-peer"} <= {c.name for c in found if not c.authority}
    assert not any(c.missing or c.external for c in found)


def test_a_certificate_that_is_not_there_has_no_end():
    """Control planes that joined have no super-admin.conf: kubeadm 1.36 gives it a null there."""
    missing = {"name": "super-admin.conf", "expirationDate": None, "residualTime": 0, "missing": True}
    there = {"name": "apiserver", "expirationDate": "2027-11-24T10:25:00Z", "missing": False}

    found = kubeadm.parse_certificates(json.dumps({"certificates": [missing, there], "certificateAuthorities": []}))

    assert [(c.name, c.ends is None, c.missing) for c in found] == [
        ("apiserver", False, False),
        ("super-admin.conf", True, True),
    ]


@pytest.mark.parametrize("text", ["error: x", '{"certificates": 1}', "{"])
def test_another_answer_is_an_error(text):
    with pytest.raises(FactUnreadable, match="cannot be read"):
        kubeadm.parse_certificates(text)


def test_its_progress_has_each_manifest_with_the_place_of_the_old_one():
    found = kubeadm.parse_progress(captured("apply.txt"))

    names = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    assert list(found.replaced) == [f"{MANIFESTS}/{name}.yaml" for name in names]
    assert all(kept.startswith(f"{kubeadm.BACKUPS}/kubeadm-backup-manifests-") for kept in found.replaced.values())
    assert (found.succeeded, found.recovered) == (True, False)


def test_upgrade_node_does_not_say_that_it_succeeded():
    found = kubeadm.parse_progress(captured("node.txt"))

    assert len(found.replaced) == 4
    assert not found.succeeded


def test_a_run_that_was_cut_short_has_what_it_replaced_so_far():
    lines = captured("apply.txt").splitlines()
    cut = next(i for i, line in enumerate(lines) if "kube-controller-manager.yaml" in line and "Moving new" in line)

    found = kubeadm.parse_progress("\n".join(lines[:cut]))

    assert list(found.replaced) == [f"{MANIFESTS}/etcd.yaml", f"{MANIFESTS}/kube-apiserver.yaml"]
    assert not found.succeeded


def test_what_kubeadm_moved_back_itself_is_told():
    said = (
        "couldn't upgrade control plane. kubeadm has tried to recover everything into the earlier state. Errors faced"
    )

    assert kubeadm.parse_progress(said).recovered


@pytest.mark.parametrize(
    ("configuration", "name"),
    [
        ("clusterName: prod\n", "prod"),
        ("kubernetesVersion: v1.37.2\n", "kubernetes"),
        ("", "kubernetes"),
        ("- a list\n", "kubernetes"),
        ("a: [broken\n", "kubernetes"),
    ],
)
def test_a_cluster_that_does_not_tell_its_name_has_kubeadms_default(configuration, name):
    assert kubeadm.cluster_name(configuration) == name
