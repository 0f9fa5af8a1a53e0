"""The documents that `-o json` and `-o yaml` give, field by field: version 1. `docs/output.md` explains each field.

Within a version fields are added, never renamed, removed or given another meaning. Times are RFC 3339 in UTC; null
stands for "not known" or "does not apply", never for "no".
"""

from __future__ import annotations

import msgspec


class Shape(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A document or a part of one."""


class ServerShape(Shape):
    """The API server that answered. `version` is empty where it does not tell."""

    url: str
    context: str
    version: str


class Summary(Shape):
    """Numbers."""

    nodes: int
    ready: int
    cordoned: int
    take_workloads: int
    applications: int
    system_applications: int
    static_pods: int
    finished_pods: int
    unready_pods: int


class TaintShape(Shape):
    """A taint."""

    key: str
    value: str
    effect: str


class CordonShape(Shape):
    """Who keeps new pods off a node."""

    owner: str | None
    reason: str
    run: str | None
    manager: str | None
    since: str | None


class PlacementShape(Shape):
    """Pods that are on a control plane for the same reason."""

    why: str
    pods: list[str]


class NodeShape(Shape):
    """A node."""

    name: str
    roles: list[str]
    ready: bool
    ready_reason: str
    ready_since: str | None
    kubelet_version: str
    skew: str
    os_image: str
    kernel_version: str
    container_runtime: str
    taints: list[TaintShape]
    cordon: CordonShape | None
    takes_workloads: bool
    obstacles: list[str]
    pods: int
    applications: int
    empty: str | None
    placements: list[PlacementShape]


class ApplicationShape(Shape):
    """An application."""

    namespace: str
    kind: str
    name: str
    pods: int
    ready: int
    wanted: int | None
    nodes: dict[str, int]


class BudgetShape(Shape):
    """A budget that allows nothing."""

    namespace: str
    name: str
    rule: str
    needed: int
    healthy: int
    expected: int
    never: bool
    why: str
    unready_pods: list[str]


class OverlapShape(Shape):
    """Pods that several budgets cover."""

    namespace: str
    budgets: list[str]
    pods: list[str]


class UnreadyShape(Shape):
    """A pod that is not ready."""

    pod: str
    node: str | None
    phase: str
    since: str | None
    why: str


class MemberShape(Shape):
    """The static pod of an etcd member."""

    pod: str
    node: str
    ready: bool


class EtcdShape(Shape):
    """Etcd, as far as the API tells."""

    health: str
    api_server_check: bool | None
    members: list[MemberShape]
    control_planes_without: list[str]


class CredentialsShape(Shape):
    """With what this user proves who they are."""

    kind: str
    ends: str | None
    renews: bool


class CertificatesShape(Shape):
    """When certificates end."""

    api_server_ends: str | None
    credentials: CredentialsShape


class BackupShape(Shape):
    """The last verified backup."""

    last_verified: str | None
    name: str


class ClusterStatus(Shape):
    """The result of `status`."""

    api_version: str
    kind: str
    read_at: str
    server: ServerShape
    summary: Summary
    nodes: list[NodeShape]
    applications: list[ApplicationShape]
    budgets: list[BudgetShape]
    overlapping_budgets: list[OverlapShape]
    unready_pods: list[UnreadyShape]
    etcd: EtcdShape
    certificates: CertificatesShape
    backup: BackupShape


class ConsequenceShape(Shape):
    """What something would do to a pod."""

    fate: str
    text: str
    data_lost: bool
    flags: list[str]


class UnmanagedShape(Shape):
    """A pod that no controller would bring back."""

    namespace: str
    name: str
    node: str | None
    kind: str
    why: str
    drain: ConsequenceShape
    drain_force: ConsequenceShape
    node_lost: ConsequenceShape


class UnmanagedPods(Shape):
    """The result of `unmanaged`."""

    api_version: str
    kind: str
    nodes: list[str]
    looked_at: int
    pods: list[UnmanagedShape]


class FindingShape(Shape):
    """One thing that was looked at."""

    check: str
    level: str
    evidence: str
    remedy: str


class DoctorReport(Shape):
    """The result of `doctor`."""

    api_version: str
    kind: str
    outcome: str
    findings: list[FindingShape]


class StepShape(Shape):
    """A step, and what was decided about it before anything started."""

    id: str
    action: str
    node: str
    decision: str
    why: str


class RestoreGroupShape(Shape):
    """Objects of one kind and namespace that a restore did the same to."""

    fate: str
    kind: str
    namespace: str | None
    objects: int
    names: list[str]


class RestoreFindingShape(Shape):
    """Something to look at after a restore."""

    check: str
    text: str
    remedy: str


class OldDataShape(Shape):
    """The data that a restore took the place of, on one control plane."""

    node: str
    path: str | None
    size_bytes: int | None
    why: str


class RestoreReportShape(Shape):
    """What a restore lost and brought back, and what is left to look at."""

    snapshot: str
    before: str | None
    before_revision: int | None
    unknown: str
    lost: int
    back: int
    different: int
    routine: int
    groups: list[RestoreGroupShape]
    diff: str
    findings: list[RestoreFindingShape]
    old_data: list[OldDataShape]
    confirm: str
    release: str


class RunResult(Shape):
    """The result of a command that changes something, of `resume` and of `release`."""

    api_version: str
    kind: str
    run: str | None
    command: str
    outcome: str
    dry_run: str | None = None
    steps: list[StepShape] | None = None
    restore: RestoreReportShape | None = None


class RunShape(Shape):
    """A run."""

    id: str
    state: str
    started: str
    title: str


class RunList(Shape):
    """The result of `runs`."""

    api_version: str
    kind: str
    runs: list[RunShape]


class HostShape(Shape):
    """A host, and how it answered."""

    name: str
    via: str
    reached: bool
    user: str | None
    root: str | None
    systemd: bool | None
    latency_s: float | None
    error: str
    remedy: str


class HostList(Shape):
    """The result of `hosts check`."""

    api_version: str
    kind: str
    hosts: list[HostShape]


class HostKeyShape(Shape):
    """A host key that is trusted now."""

    host: str
    name: str
    type: str
    fingerprint: str
    state: str
    file: str


class HostKeyList(Shape):
    """The result of `hosts trust`."""

    api_version: str
    kind: str
    keys: list[HostKeyShape]


class HopShape(Shape):
    """One version on the way."""

    to: str
    workers: bool


class UpgradeFinding(Shape):
    """Something that a preflight found."""

    check: str
    severity: str
    where: str
    text: str
    remedy: str
    detail: str
    accepted: bool


class PlannedStep(Shape):
    """A step of a plan. `lastTookS` is null where it was never done from here."""

    wave: int
    node: str
    action: str
    id: str
    last_took_s: float | None = msgspec.field(name="lastTookS")


class UpgradePlan(Shape):
    """The result of `upgrade plan`."""

    api_version: str
    kind: str
    current: str
    hops: list[HopShape]
    strategy: str
    strategy_why: str
    behind: list[str]
    findings: list[UpgradeFinding]
    steps: list[PlannedStep]


#: Every document by its kind.
KINDS: dict[str, type[Shape]] = {
    kind.__name__: kind
    for kind in (ClusterStatus, UnmanagedPods, DoctorReport, RunResult, RunList, HostList, HostKeyList, UpgradePlan)
}
