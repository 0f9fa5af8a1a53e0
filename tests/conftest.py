"""Real control planes for the tests that need one: started when first asked for, ended with the module."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from lab.api import objects, tier
from lab.api.client import Client
from tests.api.command import Command

HERE = Path(__file__).parent

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell: commands that the tests start would ignore Ctrl-C as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Settings of whoever runs the tests are none of theirs; those of commands that they start are none, either.
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"
for name in [n for n in os.environ if n.startswith("ORCHESTRATOR_") and not n.startswith("ORCHESTRATOR_LAB")]:
    del os.environ[name]


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the groups
def pytest_collection_modifyitems(items):
    """Side by side by `--dist loadgroup`: what has the real cluster, and what has processes on loopback."""
    for item in items:
        group = "cluster" if "lab" in item.path.relative_to(HERE).parts else "processes"
        item.add_marker(pytest.mark.xdist_group(group))


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
