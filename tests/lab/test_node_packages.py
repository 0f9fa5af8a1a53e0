"""Packages on the nodes: found where a real node finds them, signed, held."""

import pytest

from lab import aptsite
from tests.lab.real import WORKER, lab

pytestmark = pytest.mark.lab
SOURCES = "/etc/apt/sources.list.d/kubernetes.list"
# A repository in the node's own file system, copied from the real one; lists and sources of its own beside the node's.
COPY = f"""
set -eu
rm -rf /tmp/copy && mkdir -p /tmp/copy/deb /tmp/copy/lists/partial && cd /tmp/copy/deb
for file in InRelease Packages.gz; do curl -sSf {aptsite.url("1.37")}$file -o $file; done
echo "deb [signed-by=/etc/apt/keyrings/kubernetes-apt-keyring.gpg] file:/tmp/copy/deb/ /" > /tmp/copy/sources
$CHANGE
set -- -o Dir::Etc::sourcelist=/tmp/copy/sources -o Dir::Etc::sourceparts=-
apt-get update "$@" -o Dir::State::lists=/tmp/copy/lists 2>&1
"""


@pytest.fixture
def next_minor(real):
    """The node's source is that of 1.37 for the length of a test, changed as Kubernetes' upgrade guide says."""
    real.ssh(WORKER, f"sed -i s/v1.36/v1.37/ {SOURCES} && apt-get update -q")
    yield
    real.ssh(WORKER, f"sed -i s/v1.37/v1.36/ {SOURCES} && apt-get update -q")


def madison(real, package):
    """Versions that a node could install."""
    return [line.split(" | ")[1].strip() for line in real.ssh(WORKER, "apt-cache", "madison", package).splitlines()]


def update(change, *, code):
    """What apt says of a copy of the repository that was changed."""
    return lab("ssh", WORKER, "--", COPY.replace("$CHANGE", change), code=code).stdout.decode()


@pytest.mark.parametrize("package", ["kubeadm", "kubelet", "kubectl"])
def test_a_node_finds_packages_of_its_own_minor_only(real, package):
    found = madison(real, package)

    assert found == ["1.36.3-1.1"]


def test_packages_are_installed_and_held(real):
    assert real.ssh(WORKER, "apt-mark", "showhold").split() == ["kubeadm", "kubectl", "kubelet"]
    assert real.ssh(WORKER, "kubeadm", "version", "-o", "short") == "v1.36.3\n"


def test_the_next_minor_is_installable_once_the_source_names_it(real, next_minor):
    found = madison(real, "kubeadm")

    simulated = real.ssh(WORKER, "apt-get", "install", "-s", "kubeadm=1.37.2-*", "kubelet=1.37.2-*", "kubectl=1.37.2-*")
    installed = {line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")}
    assert found == ["1.37.2-1.1"]
    assert installed == {"kubeadm", "kubelet", "kubectl"}


def test_a_held_package_is_not_changed_unless_that_is_said(real, next_minor):
    refused = lab("ssh", WORKER, "--", "apt-get install -s -y 'kubeadm=1.37.2-*'", code=100)

    allowed = real.ssh(WORKER, "apt-get install -s -y --allow-change-held-packages 'kubeadm=1.37.2-*'")
    assert "Held packages were changed" in refused.stderr
    assert "Inst kubeadm [1.36.3-1.1] (1.37.2-1.1" in allowed


def test_a_repository_is_taken_as_it_was_signed(real):
    said = update(":", code=0)

    assert "Reading package lists" in said
    assert "not signed" not in said


def test_a_repository_whose_signed_file_was_changed_is_refused(real):
    said = update("sed -i 's/^Label: .*/Label: somebody else/' InRelease", code=100)

    assert "BADSIG" in said
    assert "is not signed" in said


def test_a_list_of_packages_that_is_not_the_signed_one_is_refused(real):
    change = "gunzip Packages.gz; sed -i 's/^Version: .*/Version: 1.37.9-1.1/' Packages; gzip Packages"

    said = update(change, code=100)

    assert "Hash Sum mismatch" in said or "unexpected size" in said
