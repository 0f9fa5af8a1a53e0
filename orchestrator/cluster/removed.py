"""What each minor version of Kubernetes takes no more: flags, feature gates, API versions. Data, and pure.

A component does not start with a flag or a feature gate that it does not know, and an API version that is gone answers
404: all of it has to be changed before the upgrade that removes it.

Source of all lists: the code of Kubernetes 1.28 to 1.37, one minor held against the next, and its changelogs
(https://git.k8s.io/kubernetes/CHANGELOG). Flags: the options of each component. Feature gates: `pkg/features` and those
of its libraries; from 1.32 on also `versioned_feature_list.yaml`. API versions: `APILifecycleRemoved` in `k8s.io/api`,
as https://kubernetes.io/docs/reference/using-api/deprecation-guide/ tells it, and the versions that the API server no
longer has. A feature that is locked to its value is not in here: its gate is still known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from orchestrator.cluster.versions import Version

_REQUESTED = re.compile(r"^apiserver_requested_deprecated_apis\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that stops working.

    Attributes:
        name: A flag with its dashes, a feature gate, or `GROUP/VERSION/RESOURCE`.
        since: The first minor version without it, as `1.37`.
        instead: What takes its place; "" when nothing does.
    """

    name: str
    since: str
    instead: str = ""


#: Component -> minor version of Kubernetes 1 -> flags that it does not know any more.
#: Source: changelogs of 1.31 (#122082, #122363, #124017, #124948), 1.33 (#130162), 1.34 (#130161, #122384),
#: 1.35 (#133779) and 1.37 (#139870, #138002). `--housekeeping-interval` of the kubelet stays.
FLAGS: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "kubelet": {
        31: ("--iptables-drop-bit", "--iptables-masquerade-bit", "--keep-terminated-pod-volumes"),
        34: ("--cloud-config", "--register-schedulable"),
        35: ("--pod-infra-container-image",),
        37: (
            "--application-metrics-count-limit",
            "--boot-id-file",
            "--container-hints",
            "--containerd",
            "--containerd-namespace",
            "--enable-load-reader",
            "--event-storage-age-limit",
            "--event-storage-event-limit",
            "--global-housekeeping-interval",
            "--log-cadvisor-usage",
            "--machine-id-file",
            "--storage-driver-buffer-duration",
            "--storage-driver-db",
            "--storage-driver-host",
            "--storage-driver-password",
            "--storage-driver-secure",
            "--storage-driver-table",
            "--storage-driver-user",
        ),
    },
    "kube-apiserver": {
        31: ("--cloud-provider-gce-lb-src-cidrs",),
        33: ("--cloud-config", "--cloud-provider"),
    },
    "kube-controller-manager": {
        31: (
            "--horizontal-pod-autoscaler-downscale-delay",
            "--horizontal-pod-autoscaler-upscale-delay",
            "--volume-host-allow-local-loopback",
            "--volume-host-cidr-denylist",
        ),
        37: ("--concurrent-service-syncs",),
    },
    # Source: etcd's guides of upgrades to 3.6 and 3.7; kubeadm brings 3.6 with 1.34, 3.7 with 1.37. See `EXPERIMENTAL`.
    "etcd": {
        34: (
            "--enable-v2",
            "--experimental-enable-v2v3",
            "--proxy",
            "--proxy-dial-timeout",
            "--proxy-failure-wait",
            "--proxy-read-timeout",
            "--proxy-refresh-interval",
            "--proxy-write-timeout",
        ),
    },
}

#: Of etcd's flags with this beginning none is left from this minor of Kubernetes 1 on: each has another name by then,
#: or is an entry of `--feature-gates`. Source: etcd's guide of upgrades to 3.7, "Flags removed".
EXPERIMENTAL, EXPERIMENTAL_UNTIL = "--experimental-", 37

#: Flags that kubeadm itself takes out of `/var/lib/kubelet/kubeadm-flags.env` in the upgrade that removes them.
#: Source: kubeadm 1.35, `phases/upgrade/postupgrade.go`.
CLEANED = frozenset({"--pod-infra-container-image"})

#: Minor version -> feature gates that no component knows any more.
GATES: Mapping[int, tuple[str, ...]] = {
    29: (
        "CSIMigrationvSphere",
        "CronJobTimeZone",
        "DownwardAPIHugePages",
        "GRPCContainerProbe",
        "JobMutableNodeSchedulingDirectives",
        "JobTrackingWithFinalizers",
        "LegacyServiceAccountTokenNoAutoGeneration",
        "MultiCIDRRangeAllocator",
        "OpenAPIV3",
        "ProbeTerminationGracePeriod",
        "RetroactiveDefaultStorageClass",
        "SeccompDefault",
        "TopologyManager",
    ),
    30: (
        "APISelfSubjectReview",
        "CSIMigrationAzureFile",
        "ExpandedDNSConfig",
        "ExperimentalHostUserNamespaceDefaulting",
        "IPTablesOwnershipCleanup",
        "KubeletPodResources",
        "KubeletPodResourcesGetAllocatable",
        "LegacyServiceAccountTokenTracking",
        "MinimizeIPTablesRestore",
        "ProxyTerminatingEndpoints",
        "RemoveSelfLink",
        "SecurityContextDeny",
    ),
    31: (
        "APIPriorityAndFairness",
        "CSIMigrationRBD",
        "CSINodeExpandSecret",
        "ConsistentHTTPGetHandlers",
        "CustomResourceValidationExpressions",
        "DefaultHostNetworkHostPortsInPodTemplates",
        "InTreePluginAWSUnregister",
        "InTreePluginAzureDiskUnregister",
        "InTreePluginAzureFileUnregister",
        "InTreePluginGCEUnregister",
        "InTreePluginOpenStackUnregister",
        "InTreePluginRBDUnregister",
        "InTreePluginvSphereUnregister",
        "JobReadyPods",
        "ReadWriteOncePod",
        "ServiceNodePortStaticSubrange",
        "SkipReadOnlyValidationGCE",
    ),
    32: (
        "CloudDualStackNodeIPs",
        "DRAControlPlaneController",
        "HPAContainerMetrics",
        "KMSv2",
        "KMSv2KDF",
        "LegacyServiceAccountTokenCleanUp",
        "MinDomainsInPodTopologySpread",
        "NewVolumeManagerReconstruction",
        "NodeOutOfServiceVolumeDetach",
        "PodHostIPs",
        "ServerSideApply",
        "ServerSideFieldValidation",
        "StableLoadBalancerNodeSet",
        "ValidatingAdmissionPolicy",
        "ZeroLimitedNominalConcurrencyShares",
    ),
    33: (
        "APIListChunking",
        "AdmissionWebhookMatchConditions",
        "AggregatedDiscoveryEndpoint",
        "AppArmor",
        "AppArmorFields",
        "CPUManager",
        "DisableCloudProviders",
        "DisableKubeletCloudCredentialProviders",
        "EfficientWatchResumption",
        "JobPodFailurePolicy",
        "KubeProxyDrainingTerminatingNodes",
        "PDBUnhealthyPodEvictionPolicy",
        "PersistentVolumeLastPhaseTransitionTime",
        "RemainingItemCount",
        "VolumeCapacityPriority",
        "WatchBookmark",
    ),
    34: (
        "DevicePluginCDIDevices",
        "ElasticIndexedJob",
        "LegacySidecarContainers",
        "PodDisruptionConditions",
        "StatefulSetStartOrdinal",
    ),
    35: (
        "AllowServiceLBStatusOnNonLB",
        "ComponentSLIs",
        "CronJobsScheduledAnnotation",
        "LoadBalancerIPMode",
        "PodIndexLabel",
        "ProbeHostPodSecurityStandards",
        "SizeMemoryBackedVolumes",
        "StatefulSetAutoDeletePVC",
        "StrictCostEnforcementForVAP",
        "StrictCostEnforcementForWebhooks",
        "UserNamespacesPodSecurityStandards",
    ),
    36: (
        "CPUCFSQuotaPeriod",
        "CSIMigrationPortworx",
        "HonorPVReclaimPolicy",
        "InPlacePodVerticalScalingAllocatedStatus",
        "InTreePluginPortworxUnregister",
        "MemoryManager",
        "RuntimeClassInImageCriAPI",
        "ServiceTrafficDistribution",
        "StructuredAuthorizationConfiguration",
        "TopologyAwareHints",
        "WatchFromStorageWithoutResourceVersion",
    ),
    37: (
        "APIServerTracing",
        "AnonymousAuthConfigurableEndpoints",
        "AnyVolumeDataSource",
        "AuthorizeNodeWithSelectors",
        "AuthorizeWithSelectors",
        "BtreeWatchCache",
        "ConsistentListFromCache",
        "GangScheduling",
        "JobBackoffLimitPerIndex",
        "JobPodReplacementPolicy",
        "JobSuccessPolicy",
        "LogarithmicScaleDown",
        "OrderedNamespaceDeletion",
        "PodLifecycleSleepAction",
        "PodLifecycleSleepActionAllowZero",
        "PreventStaticPodAPIReferences",
        "RelaxedDNSSearchValidation",
        "ResilientWatchCacheInitialization",
        "RetryGenerateName",
        "SchedulerQueueingHints",
        "SidecarContainers",
        "StreamingCollectionEncodingToJSON",
        "StreamingCollectionEncodingToProtobuf",
        "StructuredAuthenticationConfiguration",
        "WorkloadAwarePreemption",
    ),
}

#: Minor version -> kubeadm's own feature gates (`featureGates` of its ClusterConfiguration) that it knows no more.
#: Source: `cmd/kubeadm/app/features` of 1.28 to 1.37.
KUBEADM_GATES: Mapping[int, tuple[str, ...]] = {
    31: ("UpgradeAddonsBeforeControlPlane",),
    33: ("EtcdLearnerMode",),
    35: ("WaitForAllControlPlaneComponents",),
    36: ("ControlPlaneKubeletLocalMode",),
    37: ("NodeLocalCRISocket", "PublicKeysECDSA"),
}

_ADMISSION = "admissionregistration.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"

#: Minor version -> what is not served any more (all of `GROUP/VERSION`, or one resource of it) -> what is instead.
APIS: Mapping[int, Mapping[str, str]] = {
    29: {f"{_FLOW}/v1beta2": f"{_FLOW}/v1", "networking.k8s.io/v1alpha1/clustercidrs": ""},
    31: {"resource.k8s.io/v1alpha2": "resource.k8s.io/v1, from 1.34 on"},
    32: {
        f"{_ADMISSION}/v1alpha1/validatingadmissionpolicies": f"{_ADMISSION}/v1",
        f"{_ADMISSION}/v1alpha1/validatingadmissionpolicybindings": f"{_ADMISSION}/v1",
        "authentication.k8s.io/v1alpha1/selfsubjectreviews": "authentication.k8s.io/v1",
        "coordination.k8s.io/v1alpha1": "coordination.k8s.io/v1alpha2",
        f"{_FLOW}/v1beta3": f"{_FLOW}/v1",
        "resource.k8s.io/v1alpha3/podschedulingcontexts": "",
    },
    33: {"authentication.k8s.io/v1beta1/selfsubjectreviews": "authentication.k8s.io/v1"},
    34: {
        f"{_ADMISSION}/v1beta1/validatingadmissionpolicies": f"{_ADMISSION}/v1",
        f"{_ADMISSION}/v1beta1/validatingadmissionpolicybindings": f"{_ADMISSION}/v1",
        "networking.k8s.io/v1alpha1": "networking.k8s.io/v1",
        "resource.k8s.io/v1alpha3/deviceclasses": "resource.k8s.io/v1",
        "resource.k8s.io/v1alpha3/resourceclaims": "resource.k8s.io/v1",
        "resource.k8s.io/v1alpha3/resourceclaimtemplates": "resource.k8s.io/v1",
        "resource.k8s.io/v1alpha3/resourceslices": "resource.k8s.io/v1",
    },
    35: {
        "storage.k8s.io/v1alpha1/volumeattributesclasses": "storage.k8s.io/v1",
        "storagemigration.k8s.io/v1alpha1": "storagemigration.k8s.io/v1beta1",
    },
    36: {"scheduling.k8s.io/v1alpha1": "scheduling.k8s.io/v1alpha2"},
    37: {
        "certificates.k8s.io/v1alpha1/clustertrustbundles": "certificates.k8s.io/v1beta1",
        "networking.k8s.io/v1beta1/ipaddresses": "networking.k8s.io/v1",
        "networking.k8s.io/v1beta1/servicecidrs": "networking.k8s.io/v1",
        "scheduling.k8s.io/v1alpha2": "scheduling.k8s.io/v1beta1",
        "storage.k8s.io/v1beta1/volumeattributesclasses": "storage.k8s.io/v1",
    },
}


def requested(metrics: str) -> tuple[str, ...]:
    """APIs that were asked for and will be removed, as `GROUP/VERSION/RESOURCE@REMOVED_RELEASE`, out of metrics.

    Source: the API server's metric `apiserver_requested_deprecated_apis`: 1 for each that was asked for since it
    started, of that API server alone.
    """
    found = []
    for labels, value in _REQUESTED.findall(metrics):
        known = dict(_LABEL.findall(labels))
        if float(value):
            group = known.get("group", "")
            name = "/".join(part for part in (group, known.get("version", ""), known.get("resource", "")) if part)
            found.append(f"{name}@{known.get('removed_release', '')}")
    return tuple(sorted(set(found)))


def flags(arguments: Iterable[str], target: Version, component: str = "kubelet") -> tuple[Removed, ...]:
    """Those flags of a component's arguments that it does not know at `target`, in the order of the arguments.

    Args:
        arguments: As they are given: `--flag`, `--flag=value`, and values of their own; `_` counts as `-`.
        target: The newest version that the component is upgraded to.
        component: Whose arguments.
    """
    given = dict.fromkeys(_flag(each) for each in arguments if each.startswith("--"))
    lists = FLAGS.get(component, {})
    if component == "etcd":
        lists = {EXPERIMENTAL_UNTIL: tuple(name for name in given if name.startswith(EXPERIMENTAL)), **lists}
    gone = _until(lists, target)
    return tuple(Removed(name, gone[name]) for name in given if name in gone)


def gates(names: Iterable[str], target: Version) -> tuple[Removed, ...]:
    """Those feature gates that no component knows at `target`, in the order of `names`."""
    return _among(names, _until(GATES, target))


def kubeadm_gates(names: Iterable[str], target: Version) -> tuple[Removed, ...]:
    """Those of kubeadm's own feature gates that it does not know at `target`, in the order of `names`."""
    return _among(names, _until(KUBEADM_GATES, target))


def apis(group_versions: Iterable[str], target: Version) -> tuple[Removed, ...]:
    """Those API versions that are not served at `target`, in the order of `group_versions`.

    Args:
        group_versions: `GROUP/VERSION/RESOURCE`, or `GROUP/VERSION` for all that is in it.
        target: The newest version of the API server.
    """
    found = (_api(each, target) for each in dict.fromkeys(group_versions))
    return tuple(each for each in found if each is not None)


def until(now: Version, target: Version) -> tuple[str, ...]:
    """API versions that are served at `now`, as far as this knows, and not at `target`."""
    return tuple(name for gone in sorted(APIS) if now.line < (1, gone) <= target.line for name in APIS[gone])


def _api(name: str, target: Version) -> Removed | None:
    whole = "/".join(name.split("/")[:2])
    for minor in sorted(APIS):
        for each in (name, whole):
            if (1, minor) <= target.line and each in APIS[minor]:
                return Removed(name, f"1.{minor}", APIS[minor][each])
    return None


def _until(lists: Mapping[int, tuple[str, ...]], target: Version) -> Mapping[str, str]:
    """Name -> the minor version that removed it, of all that are gone at `target`."""
    return {name: f"1.{minor}" for minor, names in lists.items() if (1, minor) <= target.line for name in names}


def _among(names: Iterable[str], gone: Mapping[str, str]) -> tuple[Removed, ...]:
    return tuple(Removed(name, gone[name]) for name in dict.fromkeys(names) if name in gone)


def _flag(argument: str) -> str:
    return argument.partition("=")[0].replace("_", "-")
