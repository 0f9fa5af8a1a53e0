"""Real control planes for the tests that need one: started when first asked for, ended with the module."""

import os
import shutil
import signal
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from lab.api import objects, tier
from lab.api.client import Client
from tests.api.command import Command

#: Tests of `make test` that start a cluster of their own.
OWN = "tests/lab/test_upgrade.py"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell: commands that the tests start would ignore Ctrl-C as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings of whoever runs the tests are none of theirs; those of commands that they start are none, either.
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
for name in [n for n in os.environ if n.startswith("ORCHESTRATOR_") and not n.startswith("ORCHESTRATOR_LAB")]:
    del os.environ[name]


class Lanes(LoadScopeScheduling):
    """Side by side: what has the real cluster; what has processes on loopback, and then a cluster of its own."""

    def _split_scope(self, nodeid):
        if not nodeid.startswith("tests/lab/"):
            return "processes"
        return "own cluster" if nodeid.startswith(OWN) else "cluster"


def pytest_xdist_make_scheduler(config, log):
    """For `--dist loadscope`. Groups by marks (`loadgroup`) are none with pytest 9.2 and xdist 3.8."""
    return Lanes(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """A fresh control plane with two Ready nodes, n1 and n2, and a namespace that takes pods."""
    directory = tmp_path_factory.mktemp("plane") / "api"
    with tier.running(directory) as made:
        with Client(made) as client:
            objects.ensure_nodes(client, ["n1", "n2"])
            objects.ensure_account(client)
        yield made
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def load(plane):
    """Requests to the control plane that are not the tool's own."""
    with Client(plane) as client:
        yield client


@pytest.fixture
def orchestrator(plane, tmp_path):
    """The command, as a person runs it against the control plane."""
    command = Command(plane.kubeconfig, Path(tmp_path))
    yield command
    command.end()
