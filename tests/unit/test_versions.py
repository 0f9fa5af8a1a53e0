"""Versions, and how far apart a kubelet and its API server may be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cluster.versions import Skew, Version, kubelet_skew, parse

NUMBERS = st.integers(0, 999)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("v1.36.3", Version(1, 36, 3)),
        ("1.37", Version(1, 37, 0)),
        ("v1.35.4-eks-1a2b", Version(1, 35, 4)),
        ("v1.36.3+k3s1", Version(1, 36, 3)),
        ("v1.36.0-rc.1", Version(1, 36, 0)),
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
