"""The documented roles against real RBAC: each command works with its own, and says what it lacks without a part."""

import copy
import itertools

import pytest

from lab.api import tier
from orchestrator.kube import permissions
from tests.api.command import Command

pytestmark = pytest.mark.api

#: What each command is called with; all of them reach the point where every permission of theirs is used.
CALLS = {
    "status": ("status",),
    "unmanaged": ("unmanaged", "n1"),
    "cordon": ("cordon", "n1"),
    "uncordon": ("uncordon", "n1", "--force-owner"),
    "drain": ("drain", "n1", "--ignore-daemonsets"),
    "doctor": ("doctor", "--for", "doctor"),
}
#: Rules that a call above uses only when something goes wrong or takes long, with what then asks for them.
NOT_ALWAYS = {
    ("nodes", "list"): "suggests a name for a mistyped node",
    ("nodes", "get"): "cordon and uncordon of a selector only list",
    ("leases", "watch"): "runs longer than a second look out for others",
    ("leases", "get"): "a lease that is there already is read",
    ("leases", "update"): "runs longer than a renewal interval renew it",
    ("leases", "delete"): "see the test below",
    ("daemonsets", "get"): "only pods of DaemonSets are looked up",
    ("poddisruptionbudgets", "watch"): "a budget that has room need not be watched for long",
}
NUMBERS = itertools.count(1)


@pytest.fixture
def user(plane, load, tmp_path):
    """Gives the command as a user who has these roles and nothing else."""

    def with_roles(manifests):
        name = f"user{next(NUMBERS)}"
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}}
        load.create(account)
        for role in copy.deepcopy(manifests):
            role["metadata"]["name"] = name
            load.create(role)
            load.create(_binding(role, name))
        path = f"/api/v1/namespaces/default/serviceaccounts/{name}/token"
        token = load.ask("POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}})
        kubeconfig = tier.write_kubeconfig(plane, name, {"token": token["status"]["token"]})
        return Command(kubeconfig, tmp_path / name)

    return with_roles


def _binding(role, name):
    metadata = {key: value for key, value in role["metadata"].items() if key in ("name", "namespace")}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": f"{role['kind']}Binding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }


@pytest.mark.parametrize("command", CALLS)
def test_a_command_works_with_its_documented_role(world, user, command):
    world.deploy("web", 2, budget={"maxUnavailable": 1})

    user(permissions.manifests(command))(*CALLS[command])


def test_a_long_run_and_its_resume_work_with_the_documented_roles(world, user):
    world.deploy("db", 1, budget={"minAvailable": 1})
    command = user(permissions.manifests("drain"))
    command("drain", "n1", "--timeout", "7s", code=30)  # long enough to watch and to renew the lease
    world.client.delete(["/apis/policy/v1/namespaces/default/poddisruptionbudgets/db"])

    resumed = user(permissions.manifests("resume"))
    resumed.home = command.home
    said = resumed("resume", "last")

    assert world.pods("n1") == []
    assert "retry" not in said.stderr


def test_a_release_works_with_its_documented_role(world, user):
    world.deploy("db", 1, budget={"minAvailable": 1})
    command = user(permissions.manifests("drain"))
    command("drain", "n1", "--timeout", "1s", code=30)

    released = user(permissions.manifests("release"))
    released.home = command.home
    released("release", "last")

    assert not world.cordoned("n1")


def test_pods_may_be_deleted_only_with_what_that_flag_needs(world, user):
    world.deploy("web", 1)

    said = user(permissions.manifests("drain"))("drain", "n1", "--disable-eviction", code=20)

    assert 'cannot delete resource "pods"' in said.stderr
    user(permissions.manifests("drain", flags=True))("drain", "n1", "--disable-eviction")
    assert world.pods("n1") == []


def _lacking():
    """Each command with each of the permissions that its call always uses."""
    for command in CALLS:
        for rule in permissions.COMMANDS[command]:
            if not rule.flag and (rule.resource, rule.verb) not in NOT_ALWAYS and command != "doctor":
                yield pytest.param(command, rule, id=f"{command} without {rule}")


def _without(command, lacks):
    """The roles of a command without some of its permissions."""
    rest = [rule for rule in permissions.COMMANDS[command] if not rule.flag and not lacks(rule)]
    return [
        {**role, "rules": permissions.policy_rules([r for r in rest if bool(r.namespace) == (role["kind"] == "Role")])}
        for role in permissions.manifests(command)
    ]


@pytest.mark.parametrize(("command", "rule"), list(_lacking()))
def test_a_command_that_lacks_a_permission_names_it(world, user, command, rule):
    world.deploy("web", 1, budget={"maxUnavailable": 1})
    if command == "uncordon":
        world.client.patch("/api/v1/nodes/n1", {"spec": {"unschedulable": True}})
    before = world.names("n1")

    said = user(_without(command, lambda each: each == rule))(
        *CALLS[command], code=20 if rule.resource == "pods/eviction" else 12
    )

    assert f'cannot {rule.verb} resource "{rule.resource}"' in said.stderr
    assert "docs/rbac.md" in said.stderr
    assert "Traceback" not in said.stderr
    if rule.verb != "watch":  # what the evictions lead to is watched once they have begun
        assert world.names("n1") == before


def test_a_lock_that_cannot_be_given_back_is_said(world, user):
    said = user(_without("cordon", lambda rule: rule.verb == "delete"))("cordon", "n1")

    assert 'cannot delete resource "leases"' in said.stderr
    assert "others can take it over in 15 s" in said.stderr


def test_doctor_names_what_is_missing(user):
    said = user(permissions.manifests("doctor"))("doctor", "--for", "drain", code=20)

    assert "create pods/eviction" in said.stdout
    assert "list pods" in said.stdout
