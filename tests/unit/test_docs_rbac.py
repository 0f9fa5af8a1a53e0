"""docs/rbac.md grants what the code asks for: no more, no less."""

import re
from pathlib import Path

import pytest
import yaml

from orchestrator.kube import permissions

TEXT = (Path(__file__).parents[2] / "docs" / "rbac.md").read_text()
SECTIONS = {
    tuple(re.findall(r"`(\w+)`", heading)): body
    for heading, body in re.findall(r"^## (`.*)\n((?:(?!^## ).*\n)*)", TEXT, re.MULTILINE)
}
WITHOUT_A_CLUSTER = {"runs"}
#: What the `etcd` commands need: nodes and where they are, the cluster's name, and the run lock.
ETCD = (
    *permissions._rules("", "nodes", "get list"),
    *permissions._LEASE,
    *permissions._rules("", "configmaps", "get", namespace="kube-system", name="kubeadm-config"),
)
COMMANDS = {"etcd": ETCD, **permissions.COMMANDS}


def blocks(text):
    """Everything in its YAML blocks, block by block."""
    return [list(yaml.safe_load_all(block)) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]


def granted(rules):
    """Each single permission of a list of RBAC rules."""
    return {
        (group, resource, verb, name)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }


def manifests(command, *, flags=False):
    """The roles of a command."""
    wanted = [rule for rule in COMMANDS[command] if flags or not rule.flag]
    spaces = sorted({rule.namespace for rule in wanted})
    return [permissions._role(command, space, [r for r in wanted if r.namespace == space]) for space in spaces]


def permitted(manifests):
    """Each single permission of some roles, with its namespace."""
    return {(m["metadata"].get("namespace", ""), *one) for m in manifests for one in granted(m["rules"])}


def test_every_command_that_needs_permissions_has_a_section():
    documented = [command for commands in SECTIONS for command in commands]

    assert sorted({*COMMANDS, *WITHOUT_A_CLUSTER}) == sorted(documented)


@pytest.mark.parametrize("commands", [c for c in SECTIONS if c[0] in COMMANDS], ids=" ".join)
def test_the_roles_of_a_section_are_those_of_its_first_command_and_suffice_for_the_others(commands):
    documented = blocks(SECTIONS[commands])[0]

    assert manifests(commands[0]) == documented
    assert all(permitted(manifests(other)) <= permitted(documented) for other in commands[1:])


def test_a_rule_of_a_flag_is_the_difference_that_the_flag_makes():
    documented = blocks(SECTIONS["drain", "resume"])

    [rules] = documented[1]
    without, with_flags = (permitted(manifests("drain", flags=flags)) for flags in (False, True))
    assert {("", *one) for one in granted(rules)} == with_flags - without
    assert all(manifests(c) == manifests(c, flags=True) for c in ("cordon", "status", "doctor"))


def test_the_roles_of_a_drain_contain_those_that_the_text_says_they_do():
    [text] = re.findall(r"Whoever may `drain` may also (.*?): its roles", TEXT, re.DOTALL)

    mine = permitted(manifests("drain"))
    contained = {c for c in COMMANDS if permitted(manifests(c)) <= mine} - {"drain"}
    assert contained == set(re.findall(r"`(\w+)`", text))


def test_the_table_explains_each_permission_of_each_command():
    documented = set()
    for row in re.findall(r"^\| (`.*) \|$", TEXT, re.MULTILINE):
        resources, verbs, commands, _ = ([*re.findall(r"`([^`]+)`", cell)] for cell in row.split(" | "))
        flag = "".join(word for word in commands if word.startswith("--"))
        documented |= {(c, r, v, flag) for c in commands if c != flag for r in resources for v in verbs}

    needed = {
        (command, f"{rule.resource}.{rule.group}" if rule.group else rule.resource, rule.verb, rule.flag)
        for command, rules in COMMANDS.items()
        for rule in rules
    }
    assert needed == documented


def test_the_run_lock_is_the_only_object_outside_the_cluster_roles_but_for_upgrades_and_etcd():
    others = [c for c in COMMANDS if c not in ("upgrade", "etcd")]
    roles = [m for c in others for m in manifests(c, flags=True) if m["kind"] == "Role"]

    assert {"kube-system"} == {role["metadata"]["namespace"] for role in roles}
    assert {"leases"} == {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}


def test_the_roles_here_are_those_that_doctor_asks_for():
    assert all(manifests(command) == permissions.manifests(command) for command in permissions.COMMANDS)


def test_manifests_can_be_written_as_yaml_and_read_back():
    written = permissions.manifests("drain", flags=True)

    assert written == list(yaml.safe_load_all(yaml.safe_dump_all(written)))
