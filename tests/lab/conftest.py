"""The cluster that the tests on real nodes share; it goes when they end, however they end."""

import re

import pytest

from lab import cluster, state, versions
from lab.cluster import Request
from lab.state import Shape
from tests.api.command import Command
from tests.lab.real import VERSION, Place, Real

NAME = "test"


@pytest.fixture(scope="session")
def real():
    """Three real nodes, for one run of the tests at a time."""
    with state.lock("tests"):
        if state.load(NAME):
            cluster.down(NAME)  # of a run that was killed
        try:
            yield Real(cluster.up(Request(NAME, Shape(1, 2), VERSION, versions.USUAL)))
        finally:
            cluster.down(NAME)


@pytest.fixture(scope="module")
def place(real, request):
    """A namespace for the tests of a module, empty at first."""
    name = re.sub(r"[^a-z]+", "-", request.module.__name__.rpartition(".")[2])
    real.kubectl("create", "namespace", name)
    made = Place(real, name)
    yield made
    made.clear()
    real.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def orchestrator(real, tmp_path):
    """The command, as a person runs it against the cluster."""
    command = Command(real.cluster.kubeconfig, tmp_path)
    yield command
    command.end()
