"""What a control plane goes back to, out of what one or several runs of kubeadm kept."""

import pytest

from orchestrator.cluster.former import former
from orchestrator.cluster.hostfacts import CONTROL_PLANE, STATIC, Kept
from orchestrator.cluster.versions import parse

OLDER, OLD, NEW, NEWER = (parse(v) for v in ("v1.35.4", "v1.36.3", "v1.37.2", "v1.38.0"))
ETCD = {OLDER: parse("v3.5.24"), OLD: parse("v3.6.8"), NEW: parse("v3.7.0"), NEWER: parse("v3.8.0")}
SERVER, MANAGER, SCHEDULER = CONTROL_PLANE


def of(version, *names):
    return {name: ETCD[version] if name == "etcd" else version for name in names or STATIC}


def kept(when, version, *names):
    """What one run of kubeadm kept; it copied etcd's data at its start."""
    return Kept(f"/kept/manifests-{when}", of(version, *names), f"/kept/etcd-{when}/etcd")


def files(found):
    return {name: path.split("-")[1].partition("/")[0] for name, path in found.files.items()}


def test_one_run_has_all_of_it():
    found = former([kept("2", OLD), kept("1", OLDER)], of(NEW), NEW)

    assert (found.version, found.etcd, found.data) == (OLD, ETCD[OLD], "/kept/etcd-2/etcd")
    assert files(found) == dict.fromkeys(STATIC, "2")
    assert found.files["etcd"] == "/kept/manifests-2/etcd.yaml"


def test_a_run_that_was_cut_short_and_the_one_after_it_have_it_together():
    """The second one copied etcd's data when etcd was the new one already."""
    runs = [kept("3", OLD, MANAGER, SCHEDULER), kept("2", OLD, "etcd", SERVER), kept("1", OLDER)]

    found = former(runs, of(NEW), NEW)

    assert files(found) == {"etcd": "2", SERVER: "2", MANAGER: "3", SCHEDULER: "3"}
    assert (found.version, found.data) == (OLD, "/kept/etcd-2/etcd")


def test_a_run_that_was_cut_after_etcd_belongs_to_it():
    runs = [kept("3", OLD, *CONTROL_PLANE), kept("2", OLD, "etcd"), kept("1", OLDER)]

    found = former(runs, of(NEW), NEW)

    assert files(found) == {"etcd": "2", **dict.fromkeys(CONTROL_PLANE, "3")}


def test_what_is_still_as_it_was_is_not_touched():
    now = {**of(OLD), **of(NEW, "etcd", SERVER)}

    found = former([kept("2", OLD, "etcd", SERVER), kept("1", OLD)], now, NEW)

    assert files(found) == {"etcd": "2", SERVER: "2"}


def test_an_upgrade_that_came_no_further_than_etcd_has_etcd_alone_to_take_back():
    runs = [kept("2", NEW, "etcd"), kept("1", OLD)]

    found = former(runs, {**of(NEW), **of(NEWER, "etcd")}, NEWER)

    assert (found.version, files(found), found.data) == (NEW, {"etcd": "2"}, "/kept/etcd-2/etcd")


@pytest.mark.parametrize(
    ("runs", "now", "kubeadm"),
    [
        ([kept("1", OLD)], of(NEW), NEWER),  # kubeadm moved its manifests back: only packages are ahead
        ([kept("2", NEW, "etcd"), kept("1", OLD)], of(NEW), NEWER),  # etcd went back before
        ([kept("2", OLD), kept("1", OLD, "etcd")], of(OLD), OLD),  # all of it went back before
        ([], of(NEW), NEW),
        ([kept("1", OLD)], {}, NEW),
        ([kept("1", OLD, "etcd")], of(NEW), NEW),
    ],
)
def test_there_may_be_nothing_to_go_back_to(runs, now, kubeadm):
    assert former(runs, now, kubeadm) is None


def test_an_etcd_of_the_same_version_goes_back_with_the_run_that_replaced_its_manifest():
    """kubeadm replaces what differs in anything."""
    same = {**of(NEW), **of(OLD, "etcd")}

    assert former([kept("1", OLD)], same, NEW).etcd == ETCD[OLD]
    assert former([kept("2", OLD, *CONTROL_PLANE), kept("1", OLD, "etcd")], same, NEW).etcd is None
