"""What a contract needs around the thing that it is about: a world to fill, and somebody else who acts in it.

A further thing is held to the contracts by one more line in HARNESSES.
"""

import itertools
from contextlib import contextmanager
from typing import Protocol

import pytest

from orchestrator.engine.crew import Raised, Threads
from tests.api.harness import real
from tests.fakes.cluster import FakeCluster
from tests.fakes.lease import FakeLeases
from tests.fakes.time import FakeClock

#: Long enough for a real cluster on a busy machine.
PATIENCE_S = 30.0


class Harness(Protocol):
    """A cluster of its own or a corner of one, with what administrators, kubelets and controllers do in it.

    Attributes:
        hands: The Hands under test.
        leases: The LeaseStore under test; there is no lease when a test begins.
        namespace: Where the pods and budgets of this test are.
    """

    @property
    def view(self):
        """A View that has read nothing yet, with no way to change anything."""
        ...

    def node(self, **labels):
        """The name of a new node, Ready, that takes pods."""
        ...

    def touch_node(self, name):
        """Somebody changes the node, but nothing about its scheduling: its version is another one."""
        ...

    def cordon_by_hand(self, name, *, unschedulable=True):
        """As `kubectl cordon` does, or uncordon."""
        ...

    def remove_node(self, name):
        """It is gone."""
        ...

    def pod(self, node, *, name="", grace_s=30, goes_after_s=0.0, stuck=False, ready=True, phase="Running", **labels):
        """A new pod on the node that nobody would bring back, as it is once it has come to that phase.

        Args:
            node: Its node; "" leaves it Pending, for no node would take it.
            name: Its name; "" for one that is free.
            grace_s: Its own grace period.
            goes_after_s: How long it takes to stop when asked to go.
            stuck: It never goes (a finalizer).
            ready: Its Ready condition.
            phase: Running, Succeeded or Pending.
            labels: Its labels.
        """
        ...

    def controller(self, kind, name, replicas, node):
        """A ReplicaSet, StatefulSet or DaemonSet whose pods, labelled `app=name`, begin on `node`, all ready.

        Pods of the first two may go anywhere but onto cordoned nodes.
        """
        ...

    def budget(self, name, *, min_available=None, max_unavailable=None, **labels):
        """A budget that its controller has counted."""
        ...

    def remove_budget(self, name):
        """It is gone."""
        ...

    def remove_pod(self, pod):
        """Gone from one moment to the next."""
        ...

    def soon(self, change):
        """Have `change` happen in a moment, while the test waits in a watch of the lease."""
        ...

    def until(self, what, condition):
        """Let time pass until `condition()` is true; returns what it gave. Fails the test after PATIENCE_S."""
        ...


def first(changes, wanted):
    """The first of `changes` that is wanted. Fails the test after PATIENCE_S."""
    with Threads(1) as crew:
        crew.submit("first", lambda: next(change for change in changes if wanted(change)))
        found = crew.take(PATIENCE_S)
    if isinstance(found, Raised):
        raise found.error
    assert found is not None, f"no such change came in {PATIENCE_S:g} s"
    return found


class FakeHarness:
    """The fakes."""

    def __init__(self):
        self.clock = FakeClock()
        self.cluster = FakeCluster(self.clock)
        self.hands = self.cluster.hands()
        self.leases = FakeLeases(self.clock)
        self.namespace = "contract"
        self._numbers = itertools.count(1)

    @property
    def view(self):
        return self.cluster.view()

    def node(self, **labels):
        return self.cluster.add_node(f"node-{next(self._numbers)}", labels=labels).name

    def touch_node(self, name):
        self.cluster.change_node(name, boot_id="another")

    def cordon_by_hand(self, name, *, unschedulable=True):
        self.cluster.change_node(name, unschedulable=unschedulable)

    def remove_node(self, name):
        self.cluster.remove_node(name)

    def pod(self, node, *, name="", grace_s=30, goes_after_s=0.0, stuck=False, ready=True, phase="Running", **labels):
        ready = ready and phase == "Running"
        made = self.cluster.add_pod(
            self.namespace,
            name or f"pod-{next(self._numbers)}",
            node,
            grace_s=float(grace_s),
            stops_after_s=goes_after_s,
            stuck=stuck,
            ready=ready,
            ready_since=self.cluster.wall() if ready else None,
            phase=phase if node else "Pending",
            labels=labels,
        )
        self.cluster.pass_time(1)
        return made

    def controller(self, kind, name, replicas, node):
        self.cluster.add_controller(kind, self.namespace, name, replicas, on=(node,))
        self.cluster.pass_time(1)

    def budget(self, name, *, min_available=None, max_unavailable=None, **labels):
        self.cluster.add_budget(
            self.namespace, name, min_available=min_available, max_unavailable=max_unavailable, **labels
        )
        self.cluster.pass_time(1)

    def remove_budget(self, name):
        self.cluster.remove_budget(f"{self.namespace}/{name}")

    def remove_pod(self, pod):
        self.cluster.remove_pod(pod.key)

    def soon(self, change):
        self.leases.later(0.5, change)

    def until(self, what, condition):
        end = self.clock.now() + PATIENCE_S
        while not (found := condition()):
            assert self.clock.now() < end, f"waited in vain for {what}"
            self.cluster.pass_time(0.05)
        return found


@contextmanager
def fake(request):
    """The fakes, whatever other fixtures there are."""
    yield FakeHarness()


#: Functions from pytest's `request` to a context manager that gives a Harness. Those of real things are marked `api`.
HARNESSES = [pytest.param(fake, id="fake"), pytest.param(real, id="real", marks=pytest.mark.api)]
