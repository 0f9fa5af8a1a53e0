"""Versions, and how far apart a kubelet and its API server may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.versions import (
    Hop,
    Part,
    Skew,
    Version,
    Workers,
    hops,
    kubelet_skew,
    parse,
    target,
    violations,
)
from orchestrator.errors import Refused

NUMBERS = st.integers(0, 999)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v1.36.3", Version(1, 36, 3)),
        ("1.37", Version(1, 37, 0)),
        ("v1.35.4-eks-1a2b", Version(1, 35, 4)),
        ("v1.36.3+k3s1", Version(1, 36, 3)),
        ("v1.36.0-rc.1", Version(1, 36, 0, 2, 1)),
        ("", None),
        ("v1", None),
        ("kubernetes v1.36.3", None),
        ("v1.x", None),
    ],
)
def test_a_version_is_found_whatever_vendors_add_to_it(text, version):
    assert parse(text) == version


@given(NUMBERS, NUMBERS, NUMBERS)
def test_what_was_written_is_read(major, minor, patch):
    assert parse(f"v{major}.{minor}.{patch}") == Version(major, minor, patch)


def test_versions_are_ordered_by_number_and_not_by_text():
    assert parse("v1.9.10") < parse("v1.10.2") < parse("v1.10.10") < parse("v2.0.0")


@pytest.mark.parametrize(
    ("kubelet", "server", "skew"),
    [
        ("v1.36.9", "v1.36.0", Skew.WITHIN),
        ("v1.33.0", "v1.36.3", Skew.WITHIN),
        ("v1.32.9", "v1.36.3", Skew.TOO_OLD),
        ("v1.25.0", "v1.28.0", Skew.WITHIN),
        ("v1.24.0", "v1.27.0", Skew.TOO_OLD),
        ("v1.24.0", "v1.26.0", Skew.WITHIN),
        ("v1.37.0", "v1.36.3", Skew.NEWER),
        ("v2.0.0", "v1.36.3", Skew.NEWER),
        ("v1.36.3", "v2.37.0", Skew.TOO_OLD),
        ("", "v1.36.3", Skew.UNKNOWN),
        ("v1.36.3", "devel", Skew.UNKNOWN),
    ],
)
def test_the_skew_policy_is_kept(kubelet, server, skew):
    assert kubelet_skew(kubelet, server) is skew


@given(st.integers(25, 99), st.integers(0, 9), st.integers(0, 9))
def test_patches_never_count(minor, one, other):
    assert kubelet_skew(f"1.{minor}.{one}", f"1.{minor}.{other}") is Skew.WITHIN


# ---- pre-releases and vendors -----------------------------------------------------------------------------------


def test_a_pre_release_comes_before_its_release_and_after_the_last_patch():
    ordered = ["v1.36.9", "v1.37.0-alpha.2", "v1.37.0-alpha.10", "v1.37.0-beta.0", "v1.37.0-rc.1", "v1.37.0", "v1.37.1"]

    assert sorted(sorted(ordered), key=parse) == ordered


def test_what_a_vendor_adds_is_kept_and_does_not_count():
    eks = parse("v1.36.3-eks-1a2b")

    assert eks == parse("v1.36.3")
    assert str(eks) == "v1.36.3-eks-1a2b"


@pytest.mark.parametrize("text", ["v1.36.3", "v1.37.0-rc.1", "v1.35.4-eks-1a2b", "v1.36.3+k3s1", "v1.34.1-gke.1293000"])
def test_a_version_is_written_as_it_was_read(text):
    assert str(parse(text)) == text


# ---- the skew policy, component by component --------------------------------------------------------------------


def part(component, version, node="n1"):
    return Part(component, node, parse(version))


def servers(*versions):
    return [part("kube-apiserver", version, f"cp{i}") for i, version in enumerate(versions)]


@pytest.mark.parametrize(
    ("component", "low", "high"),
    [
        ("kubelet", 34, 36),
        ("kube-proxy", 34, 36),
        ("kube-controller-manager", 36, 36),
        ("kube-scheduler", 36, 36),
        ("kubectl", 36, 37),
    ],
)
def test_api_servers_of_two_minors_narrow_what_others_may_be(component, low, high):
    mixed = servers("v1.37.0", "v1.36.3")
    fitting = [m for m in range(30, 42) if not violations([*mixed, part(component, f"v1.{m}.0")])]

    assert fitting == list(range(low, high + 1))


@pytest.mark.parametrize(
    ("component", "low", "high"),
    [
        ("kubelet", 33, 36),
        ("kube-proxy", 33, 36),
        ("kube-controller-manager", 35, 36),
        ("kube-scheduler", 35, 36),
        ("kubectl", 35, 37),
    ],
)
def test_each_component_may_be_so_far_from_its_api_server(component, low, high):
    fitting = [m for m in range(30, 42) if not violations([*servers("v1.36.3"), part(component, f"v1.{m}.0")])]

    assert fitting == list(range(low, high + 1))


def test_api_servers_two_minors_apart_are_named_with_what_would_be_allowed():
    (found,) = violations(servers("v1.37.0", "v1.35.3"))

    assert found.part.node == "cp1"
    assert str(found) == (
        "kube-apiserver of cp1 (v1.35.3): API servers of one cluster are within one minor version;"
        " allowed: 1.36 to 1.37"
    )


@pytest.mark.parametrize(("kubelet", "proxy", "fits"), [("v1.36.0", "v1.33.0", True), ("v1.25.0", "v1.23.0", True)])
def test_a_kube_proxy_may_be_so_far_from_the_kubelet_beside_it(kubelet, proxy, fits):
    beside = [part("kubelet", kubelet), part("kube-proxy", proxy)]

    assert (violations([*servers(kubelet), *beside]) == ()) is fits


def test_a_kube_proxy_too_far_from_the_kubelet_beside_it_is_named():
    found = violations([*servers("v1.25.0"), part("kubelet", "v1.25.0"), part("kube-proxy", "v1.22.0")])

    assert "kube-proxy is within 2 minors of the kubelet beside it" in [v.rule for v in found]


def test_without_an_api_server_nothing_is_said():
    assert violations([part("kubelet", "v1.20.0")]) == ()


# ---- the way to a newer version ---------------------------------------------------------------------------------

OFFERED = [parse(v) for v in ("1.35.1", "1.35.4", "1.36.0", "1.36.3", "1.37.0-rc.1", "1.37.2", "1.38.1")]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("1.37", "v1.37.2"), ("v1.36", "v1.36.3"), ("1.36.0", "v1.36.0"), ("1.37.0-rc.1", "v1.37.0-rc.1")],
)
def test_a_minor_means_its_newest_release_and_a_patch_itself(wanted, found):
    assert str(target(wanted, OFFERED)) == found


@pytest.mark.parametrize(
    ("wanted", "why"), [("1.39", "offers Kubernetes 1.39"), ("1.37.9", "1.37.9"), ("new", "no version")]
)
def test_what_is_not_offered_is_refused_with_what_is(wanted, why):
    with pytest.raises(Refused, match=why) as caught:
        target(wanted, OFFERED)

    assert caught.value.exit_code == 20


def way(current, to, *, workers=Workers.EACH_HOP, kubelet=None, offered=OFFERED):
    return hops(parse(current), parse(to), offered, workers=workers, kubelet=parse(kubelet or current))


def test_each_minor_is_gone_through_once_at_its_newest_patch():
    assert [str(hop.to) for hop in way("v1.34.4", "v1.37.2")] == ["v1.35.4", "v1.36.3", "v1.37.2"]


def test_a_patch_is_one_hop():
    assert way("v1.36.0", "v1.36.3") == (Hop(parse("v1.36.3"), workers=True),)


def test_nothing_is_left_to_do_at_the_goal_unless_workers_are_behind():
    assert way("v1.37.2", "v1.37.2") == ()
    assert way("v1.37.2", "v1.37.2", kubelet="v1.36.3") == (Hop(parse("v1.37.2"), workers=True),)


def test_a_minor_that_nobody_offers_is_not_jumped_over():
    with pytest.raises(Refused, match=r"leads over 1\.36, which no package repository") as caught:
        way("v1.35.1", "v1.37.2", offered=[parse("1.37.2")])

    assert "1.36" in caught.value.remedy


@pytest.mark.parametrize(
    ("current", "to", "why"), [("v1.37.2", "v1.36.3", "does not downgrade"), ("v1.37.2", "v2.0.0", "major")]
)
def test_there_is_no_way_back_and_none_to_another_major(current, to, why):
    with pytest.raises(Refused, match=why):
        way(current, to)


def test_workers_may_wait_for_the_last_hop():
    found = way("v1.35.1", "v1.38.1", workers=Workers.LAST)

    assert [hop.workers for hop in found] == [False, False, True]


def test_workers_that_would_fall_too_far_behind_are_taken_along():
    found = way("v1.35.1", "v1.38.1", workers=Workers.LAST, kubelet="v1.34.0")

    assert [hop.workers for hop in found] == [False, True, True]


def test_workers_that_are_far_behind_catch_up_before_anything_else():
    found = way("v1.36.3", "v1.37.2", kubelet="v1.33.0")

    assert [(str(hop.to), hop.workers) for hop in found] == [("v1.36.3", True), ("v1.37.2", True)]


@given(
    start=st.integers(30, 40), span=st.integers(1, 9), behind=st.integers(0, 3), workers=st.sampled_from(list(Workers))
)
def test_the_policy_holds_at_every_moment_of_every_way(start, span, behind, workers):
    offered = [Version(1, minor, 4) for minor in range(start, start + span + 1)]
    current, kubelet = Version(1, start, 0), Version(1, start - behind, 0)

    found = hops(current, Version(1, start + span, 4), offered, workers=workers, kubelet=kubelet)

    for hop in found:
        one_done = [Part("kube-apiserver", "cp1", hop.to), Part("kube-apiserver", "cp2", current)]
        assert violations([*one_done, Part("kubelet", "w", kubelet), Part("kube-proxy", "w", kubelet)]) == ()
        current, kubelet = hop.to, hop.to if hop.workers else kubelet
    assert (current.line, kubelet.line) == ((1, start + span), (1, start + span))
