"""The permissions that each command needs, as data: `doctor` asks for them, docs/rbac.md grants them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.kube.lease import NAME, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Rule:
    """One verb on one kind of object.

    Attributes:
        group: The API group; "" for the core.
        resource: Its plural, with a subresource after a slash.
        verb: Of the API.
        namespace: "" for all namespaces, and for kinds without any.
        name: The only object that it has to hold for; "" for all.
        flag: It is needed with that flag only; "" for always.
    """

    group: str
    resource: str
    verb: str
    namespace: str = ""
    name: str = ""
    flag: str = ""

    def __str__(self) -> str:
        kind = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f" {self.name}" if self.name else ""
        return f"{self.verb} {kind}{named}" + (f" in {self.namespace}" if self.namespace else "")


def _rules(group: str, resource: str, verbs: str, **where: str) -> tuple[Rule, ...]:
    return tuple(Rule(group, resource, verb, **where) for verb in verbs.split())


_CONTROLLERS = (
    *_rules("apps", "deployments", "list"),
    *_rules("apps", "statefulsets", "list"),
    *_rules("apps", "daemonsets", "list"),
    *_rules("apps", "replicasets", "list"),
    *_rules("batch", "jobs", "list"),
    *_rules("", "replicationcontrollers", "list"),
)
_LEASE_KIND = ("coordination.k8s.io", "leases")
#: Source: RBAC cannot restrict `create` to a name, for there is none yet.
_LEASE = (
    *_rules(*_LEASE_KIND, "get watch update delete", namespace=NAMESPACE, name=NAME),
    *_rules(*_LEASE_KIND, "create", namespace=NAMESPACE),
)
#: A run has its nodes by name; the command that begins it may have to find them first.
_SCHEDULING = (*_rules("", "nodes", "get patch"), *_LEASE)
_FINDING = _rules("", "nodes", "list")
_DRAIN = (
    *_SCHEDULING,
    *_rules("", "pods", "list watch"),
    *_rules("", "pods/eviction", "create"),
    *_rules("", "pods", "delete", flag="--disable-eviction"),
    *_rules("apps", "daemonsets", "get"),
    *_rules("policy", "poddisruptionbudgets", "list watch"),
)

#: Components whose leader an upgrade waits for.
LEADERS = ("kube-controller-manager", "kube-scheduler")

#: Command -> what it needs. `runs` needs no cluster. Reading `/version` and `/readyz` is everybody's.
COMMANDS: Mapping[str, tuple[Rule, ...]] = {
    "status": (
        *_rules("", "nodes", "list"),
        *_rules("", "pods", "list"),
        *_rules("policy", "poddisruptionbudgets", "list"),
        *_CONTROLLERS,
    ),
    "unmanaged": (
        *_rules("", "nodes", "get list"),
        *_rules("", "pods", "list"),
        *_rules("policy", "poddisruptionbudgets", "list"),
        *_CONTROLLERS,
    ),
    "cordon": (*_FINDING, *_SCHEDULING),
    "uncordon": (*_FINDING, *_SCHEDULING),
    "drain": (*_FINDING, *_DRAIN),
    "upgrade": (
        *_FINDING,
        *_DRAIN,
        *_CONTROLLERS,
        *_rules(*_LEASE_KIND, "get", namespace="kube-node-lease"),
        *(rule for name in LEADERS for rule in _rules(*_LEASE_KIND, "get", namespace=NAMESPACE, name=name)),
        *_rules("", "configmaps", "get", namespace=NAMESPACE, name="kubeadm-config"),
    ),
    "etcd": (
        *_rules("", "nodes", "get list"),
        *_LEASE,
        *_rules("", "configmaps", "get", namespace=NAMESPACE, name="kubeadm-config"),
    ),
    "resume": _DRAIN,
    "release": _SCHEDULING,
    "hosts": _FINDING,
    "doctor": _rules(*_LEASE_KIND, "get", namespace=NAMESPACE, name=NAME),
}


def of(commands: Iterable[str]) -> tuple[Rule, ...]:
    """What any of `commands` needs, each rule once."""
    return tuple(dict.fromkeys(rule for command in commands for rule in COMMANDS[command]))


def manifests(command: str, *, flags: bool = False) -> list[dict[str, Any]]:
    """The roles that grant what `command` needs and nothing else, as objects for the API.

    Args:
        command: One of COMMANDS.
        flags: With what only some of its flags need.

    Returns:
        A ClusterRole, then a Role for each namespace; those that would be empty are left out.
    """
    wanted = [rule for rule in COMMANDS[command] if flags or not rule.flag]
    namespaces = sorted({rule.namespace for rule in wanted})
    return [_role(command, space, [r for r in wanted if r.namespace == space]) for space in namespaces]


def _role(command: str, namespace: str, wanted: Iterable[Rule]) -> dict[str, Any]:
    metadata = {"name": f"orchestrator-{command}"}
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role" if namespace else "ClusterRole",
        "metadata": {**metadata, "namespace": namespace} if namespace else metadata,
        "rules": policy_rules(wanted),
    }


#: In the order in which people write them.
_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete")


def policy_rules(wanted: Iterable[Rule]) -> list[dict[str, Any]]:
    """Rules as RBAC writes them: verbs of one resource together, then resources that take the same verbs.

    Source: RBAC, "Referring to resources": a `list` or `watch` of one name is granted by `resourceNames` when it is
    asked for with the field selector `metadata.name`.
    """
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for rule in wanted:
        verbs.setdefault((rule.group, rule.resource, rule.name), []).append(rule.verb)
    resources: dict[tuple[str, str, tuple[str, ...]], list[str]] = {}
    for (group, resource, name), granted in verbs.items():
        resources.setdefault((group, name, tuple(granted)), []).append(resource)
    return [
        {
            "apiGroups": [group],
            "resources": together,
            **({"resourceNames": [name]} if name else {}),
            "verbs": sorted(granted, key=_VERBS.index),
        }
        for (group, name, granted), together in resources.items()
    ]
