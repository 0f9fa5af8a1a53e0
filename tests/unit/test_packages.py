"""What a host tells of its packages, out of captured answers, and its sources moved to another minor."""

from pathlib import Path

import pytest

from orchestrator.cluster import packages
from orchestrator.cluster.versions import parse
from orchestrator.errors import FactUnreadable

FACTS = Path(__file__).parent / "facts" / "apt"
DEB822 = """\
Types: deb
# URIs: https://pkgs.k8s.io/core:/stable:/v1.30/deb/
URIs: https://pkgs.k8s.io/core:/stable:/v1.36/deb/
Suites: /
Signed-By: /etc/apt/keyrings/kubernetes-apt-keyring.gpg
"""
OTHER = "deb https://download.example.org/v1.36/debian bookworm main\n"


def captured(name):
    return (FACTS / name).read_text()


def test_installed_packages_have_version_and_hold():
    found = packages.parse_installed(captured("installed.1.36.txt"))

    assert {name: str(found[name].version) for name in packages.KUBERNETES} == dict.fromkeys(
        packages.KUBERNETES, "v1.36.3-1.1"
    )
    assert all(found[name].held and found[name].whole for name in packages.KUBERNETES)
    assert not found["containerd"].held


@pytest.mark.parametrize("state", ["install ok half-installed", "hold ok unpacked", "install reinstreq installed"])
def test_a_package_that_is_half_installed_is_not_whole(state):
    found = packages.parse_installed(f"kubelet\t1.36.3-1.1\t{state}\n")

    assert not found["kubelet"].whole


def test_what_is_offered_has_the_newest_revision_of_each_version():
    two = captured("offered.1.37.txt") + "   kubeadm | 1.37.1-2.1 | x\n   kubeadm | 1.37.1-1.1 | x\n"

    found = packages.parse_offered(two)

    assert found == {parse("1.37.2"): "1.37.2-1.1", parse("1.37.1"): "1.37.1-2.1"}


def test_without_an_index_nothing_is_offered_and_that_is_said():
    with pytest.raises(FactUnreadable, match=r"n1 is not offered Kubernetes v1\.37\.2, only nothing") as caught:
        packages.revision_for(packages.parse_offered(""), parse("1.37.2"), host="n1")

    assert "apt-get update" in caught.value.remedy


def test_the_revision_for_a_version_is_what_apt_is_told():
    offered = packages.parse_offered(captured("offered.1.36.txt"))

    assert packages.revision_for(offered, parse("v1.36.3"), host="n1") == "1.36.3-1.1"


@pytest.mark.parametrize("line", ["kubelet 1.36", "kubelet\t1\tok", "E: no such thing"])
def test_what_is_not_dpkgs_form_is_an_error(line):
    with pytest.raises(FactUnreadable, match="dpkg-query printed"):
        packages.parse_installed(line)


@pytest.mark.parametrize("line", ["N: Unable to locate package", " kubeadm | none | x"])
def test_what_is_not_apts_form_is_an_error(line):
    with pytest.raises(FactUnreadable, match="madison printed"):
        packages.parse_offered(line)


@pytest.mark.parametrize("text", [DEB822, (FACTS / "kubernetes.list").read_text()])
def test_a_source_of_either_form_is_found_and_moved_and_nothing_else_is_changed(text):
    found = packages.source("/etc/apt/sources.list.d/kubernetes.list", text + OTHER)

    there = packages.moved(found, "1.37")

    assert found.minors == ("1.36",)
    assert packages.source("x", there).minors == ("1.37",)
    changed = [(a, b) for a, b in zip((text + OTHER).splitlines(), there.splitlines(), strict=True) if a != b]
    assert [(a.replace("v1.36", "v1.37"), b) for a, b in changed] == [(b, b) for _, b in changed]
    assert len(changed) == 1


def test_what_is_commented_out_or_of_somebody_else_is_no_source_of_kubernetes():
    assert packages.source("x", OTHER) is None
    assert packages.source("x", "# deb https://pkgs.k8s.io/core:/stable:/v1.36/deb/ /\n") is None
