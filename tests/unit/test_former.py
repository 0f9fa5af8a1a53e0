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


def test_an_etcd_that_was_replaced_by_a_run_of_its_own_is_told_to_be_so():
    runs = [kept("3", OLD, *CONTROL_PLANE), kept("2", OLD, "etcd"), kept("1", OLDER)]

    found = former(runs, of(NEW), NEW)

    assert files(found) == {"etcd": "2", **dict.fromkeys(CONTROL_PLANE, "3")}
    assert (found.alone, found.data) == (True, "/kept/etcd-2/etcd")
    assert files(found.without_etcd()) == dict.fromkeys(CONTROL_PLANE, "3")
    assert (found.without_etcd().etcd, found.without_etcd().data) == (None, "")


def test_an_upgrade_that_came_no_further_than_etcd_has_etcd_alone_to_take_back():
    """A later run of it found etcd's manifest replaced, and wrote it with other options."""
    runs = [kept("3", NEWER, "etcd"), kept("2", NEW, "etcd"), kept("1", OLD)]

    found = former(runs, {**of(NEW), **of(NEWER, "etcd")}, NEWER)

    assert (found.version, files(found), found.alone) == (NEW, {"etcd": "2"}, True)
    assert found.without_etcd() is None


def test_what_is_still_as_it_was_is_not_touched():
    now = {**of(OLD), **of(NEW, "etcd", SERVER)}

    found = former([kept("2", OLD, "etcd", SERVER), kept("1", OLD)], now, NEW)

    assert files(found) == {"etcd": "2", SERVER: "2"}


def test_a_second_run_with_other_options_kept_some_of_the_new_version():
    """The first one was cut after the API server; the second one replaced that again."""
    second = Kept("/kept/manifests-3", {SERVER: NEW, MANAGER: OLD, SCHEDULER: OLD}, "/kept/etcd-3/etcd")

    found = former([second, kept("2", OLD, "etcd", SERVER), kept("1", OLDER)], of(NEW), NEW)

    assert (found.version, found.data) == (OLD, "/kept/etcd-2/etcd")
    assert files(found) == {"etcd": "2", SERVER: "2", MANAGER: "3", SCHEDULER: "3"}


def test_a_version_of_which_not_every_component_is_left_is_passed_over():
    """The first run, to 1.37.1, was cut after the API server; the second one went to 1.37.2."""
    between = parse("v1.37.1")
    second = Kept("/kept/manifests-3", {SERVER: between, MANAGER: OLD, SCHEDULER: OLD}, "/kept/etcd-3/etcd")

    found = former([second, kept("2", OLD, "etcd", SERVER)], of(NEW), NEW)

    assert (found.version, found.etcd) == (OLD, ETCD[OLD])
    assert files(found) == {"etcd": "2", SERVER: "2", MANAGER: "3", SCHEDULER: "3"}
    assert former([second], of(NEW), NEW) is None


def test_the_latest_of_several_upgrades_from_the_same_version_counts():
    assert set(files(former([kept("2", OLD), kept("1", OLD)], of(NEW), NEW)).values()) == {"2"}


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
    assert former([kept("1", OLD)], {**of(NEW), **of(OLD, "etcd")}, NEW).etcd == ETCD[OLD]
