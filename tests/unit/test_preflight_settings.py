"""What is said of settings that the new version takes no more."""

from dataclasses import replace

import pytest

from orchestrator.cluster.model import Written
from orchestrator.cluster.preflight import Severity
from orchestrator.cluster.versions import parse
from tests.fakes.situations import (
    CONFIGURATION,
    ENV,
    V135,
    at,
    found,
    kubelet,
    node,
    only,
    plane,
    situation,
    worker,
)


def test_a_flag_that_is_gone_is_told_with_the_file_that_has_it():
    host = kubelet(
        files={"/etc/default/kubelet": "# --boot-id-file=/x\nKUBELET_EXTRA_ARGS=--containerd=/run/c.sock --v=2\n"},
        arguments=("--containerd=/run/c.sock", "--machine_id_file=/y", "value", "--v=2"),
    )

    reported = found(situation(plane(), host), "RemovedFlags")

    assert [(f.severity, f.where) for f in reported] == [(Severity.ERROR, "w1")] * 2
    assert [f.text.split(" is gone since ")[0].split()[-1] for f in reported] == ["--containerd", "--machine-id-file"]
    assert "out of /etc/default/kubelet on w1" in reported[0].remedy
    assert "systemctl cat kubelet" in reported[1].remedy
    assert found(situation(plane(), host, to=(parse("v1.36.9"),)), "RemovedFlags") == []


@pytest.mark.parametrize(
    ("paths", "told"),
    [([ENV], False), (["/etc/default/kubelet"], True), ([ENV, "/etc/default/kubelet"], True)],
)
def test_a_flag_that_kubeadm_takes_out_itself_is_no_finding(paths, told):
    flag = "--pod-infra-container-image=registry.k8s.io/pause:3.10"
    host = at(kubelet(files=dict.fromkeys(paths, f'KUBELET_ARGS="--v=2 {flag}"'), arguments=(flag,)), parse("v1.34.1"))

    reported = found(situation(at(plane(), parse("v1.34.1")), host, to=(V135,)), "RemovedFlags")

    assert bool(reported) is told


@pytest.mark.parametrize(
    ("arguments", "to", "gone"),
    [
        ("[{name: experimental-corrupt-check-time, value: 1h}, {name: quota-backend-bytes, value: '1'}]", None,
         ["--experimental-corrupt-check-time"]),
        ("{experimental-corrupt-check-time: 1h}", "v1.36.9", []),
        ("{enable-v2: 'true', experimental-enable-v2v3: /x}", "v1.36.9", ["--enable-v2", "--experimental-enable-v2v3"]),
    ],
)  # fmt: skip
def test_flags_of_etcd_that_are_gone_with_the_etcd_of_a_new_version(arguments, to, gone):
    configuration = f"{CONFIGURATION}etcd:\n  local:\n    extraArgs: {arguments}\n"
    version = {"to": (parse(to),)} if to else {}
    made = situation(plane(), worker(), configuration=configuration, **version)

    reported = found(made, "RemovedFlags")

    assert [f.text.split(" is gone")[0].split()[-1] for f in reported] == gone
    assert all("the flag of etcd" in f.text and "ClusterConfiguration" in f.remedy for f in reported)


def with_etcd(*changes):
    """A control plane whose etcd.yaml has, for each pair, the second in the first's place."""
    host = plane()
    text = host.manifests["etcd"].text
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return replace(host, manifests={**host.manifests, "etcd": replace(host.manifests["etcd"], text=text)})


MORE = ("- --name=", "- --quota-backend-bytes=8589934592\n    - --name=")
ARGUMENT = "etcd:\n  local:\n    extraArgs:\n    - name: {}\n      value: {}\n"


@pytest.mark.parametrize(
    ("changes", "configuration", "told"),
    [
        ((), "", []),
        ((MORE,), "", ["--quota-backend-bytes=8589934592"]),
        ((MORE,), ARGUMENT.format("quota-backend-bytes", '"8589934592"'), []),
        ((MORE,), ARGUMENT.format("quota-backend-bytes", '"1"'), ["--quota-backend-bytes=8589934592"]),
        ((("=/var/lib/etcd", "=/data/etcd"),), "", ["--data-dir=/data/etcd"]),
        ((("=/var/lib/etcd", "=/data/etcd"),), "etcd:\n  local:\n    dataDir: /data/etcd\n", []),
        (
            (("-metrics-urls=http://127.0.0.1", "-metrics-urls=http://0.0.0.0"),),
            "",
            ["--listen-metrics-urls=http://0.0.0.0:2381"],
        ),
        ((("-client-urls=https://127.0.0.1:2379", "-client-urls=https://[::1]:2379"),), "", []),
    ],
)
def test_flags_that_were_set_by_hand_in_etcds_manifest_are_told(changes, configuration, told):
    made = situation(with_etcd(*changes), worker(), configuration=CONFIGURATION + configuration)

    reported = found(made, "EditedManifests")

    assert [f.detail.splitlines() for f in reported] == ([told] if told else [])
    assert all(f.severity is Severity.ERROR and told[0] in f.text and "extraArgs" in f.remedy for f in reported)
    assert found(replace(made, hops=()), "EditedManifests") == []


@pytest.mark.parametrize(
    ("config", "arguments", "gates"),
    [
        ("featureGates:\n  SidecarContainers: true\n  KubeletInUserNamespace: true\n", (), ["SidecarContainers"]),
        ("", ("--feature-gates=APIServerTracing=false,NodeSwap=true",), ["APIServerTracing"]),
        ("featureGates:\n", (), []),
        ("featureGates: {NodeSwap: true}", ("--feature-gates=",), []),
    ],
)
def test_feature_gates_of_a_kubelet_that_are_gone(config, arguments, gates):
    reported = found(situation(plane(), kubelet(config, arguments=arguments)), "RemovedFeatureGates")

    assert [f.text.split(" is gone")[0].split()[-1] for f in reported] == gates
    assert all(f.severity is Severity.ERROR and "kubelet-config" in f.remedy for f in reported)


@pytest.mark.parametrize("config", ["{", "- a\n- b\n", "just text"])
def test_a_configuration_that_cannot_be_read_is_not_one_without_faults(config):
    one = only(situation(plane(), kubelet(config)), "KubeletConfig")

    assert (one.severity, one.where) == (Severity.ERROR, "w1")


@pytest.mark.parametrize(
    "extra",
    [
        "  extraArgs:\n    feature-gates: AnyVolumeDataSource=true,Other=true\n    concurrent-service-syncs: '2'\n",
        "  extraArgs: [{name: feature-gates, value: AnyVolumeDataSource=1}, {name: concurrent-service-syncs}, 7]\n",
    ],
)
def test_kubeadms_configuration_is_read_in_both_its_forms(extra):
    text = f"{CONFIGURATION}controllerManager:\n{extra}apiServer: {{}}\nscheduler:\n  extraArgs:\n"

    reported = [f for f in found(situation(configuration=text)) if f.check.startswith("Removed")]

    assert [(f.check, f.where, f.severity) for f in reported] == [
        ("RemovedFeatureGates", "cluster", Severity.ERROR),
        ("RemovedFlags", "cluster", Severity.ERROR),
    ]
    assert "the feature gate of kube-controller-manager AnyVolumeDataSource is gone since 1.37" in reported[0].text
    assert "kubectl edit configmap kubeadm-config" in reported[1].remedy


def test_kubeadms_own_feature_gates_are_read():
    text = f"{CONFIGURATION}featureGates:\n  NodeLocalCRISocket: true\n  RootlessControlPlane: true\n"

    assert "NodeLocalCRISocket" in only(situation(configuration=text), "RemovedFeatureGates").text


@pytest.mark.parametrize("text", ["", "{", "- list"])
def test_without_kubeadms_configuration_there_is_no_upgrade(text):
    assert only(situation(configuration=text), "ClusterConfiguration").severity is Severity.ERROR


def test_a_manifest_is_told_of_only_where_kubeadms_configuration_does_not_have_it():
    server = plane().manifests["kube-apiserver"]
    text = server.text.replace("- --runtime-config=", '- "--feature-gates=APIServerTracing=true,BtreeWatchCache=true"')
    host = plane(manifests={**plane().manifests, "kube-apiserver": replace(server, text=text)})
    configuration = f"{CONFIGURATION}apiServer:\n  extraArgs:\n    feature-gates: APIServerTracing=true\n"

    reported = found(situation(host, worker(), configuration=configuration), "RemovedFeatureGates")

    assert [(f.where, f.text.split(" is gone")[0].split()[-1]) for f in reported] == [
        ("cluster", "APIServerTracing"),
        ("cp1", "BtreeWatchCache"),
    ]
    assert "/etc/kubernetes/manifests/kube-apiserver.yaml on cp1" in reported[1].remedy


@pytest.mark.parametrize(
    ("asked", "check", "severity", "text"),
    [
        ("x.example/v1beta1/ys@1.37", "RemovedApis", Severity.ERROR, "x.example/v1beta1/ys, which 1.37 does not serve"),
        ("x.example/v1beta1/ys@1.36", "RemovedApis", Severity.ERROR, "1.36 does not serve"),
        ("x.example/v1beta1/ys@1.38", "DeprecatedApis", Severity.WARNING, "1.38 will not serve; 1.37 still does"),
        ("/v1/endpoints@", "DeprecatedApis", Severity.NOTE, "clients ask for v1/endpoints, which is deprecated"),
        ("scheduling.k8s.io/v1alpha2/workloads@", "RemovedApis", Severity.ERROR, "which 1.37 does not serve"),
    ],
)
def test_api_versions_that_clients_ask_for(asked, check, severity, text):
    one = only(situation(deprecated=(asked,)), check)

    assert (one.severity, one.where) == (severity, "cluster")
    assert text in one.text
    assert "audit log" in one.remedy


def test_the_version_that_replaces_another_is_named_where_it_is_known():
    one = only(situation(deprecated=("storage.k8s.io/v1beta1/volumeattributesclasses@1.37",)), "RemovedApis")

    assert one.remedy.startswith("use storage.k8s.io/v1;")


@pytest.mark.parametrize(
    ("config", "arguments", "told"),
    [
        ("", (), True),
        ("failSwapOn: true", (), True),
        ("failSwapOn: false", (), False),
        ("{", (), True),
        ("", ("--fail-swap-on=false",), False),
        ("failSwapOn: false", ("--fail-swap-on",), True),
    ],
)
def test_swap_is_a_fault_unless_the_kubelet_bears_it(config, arguments, told):
    reported = found(situation(plane(), kubelet(config, arguments=arguments, swap=True)), "SwapOn")

    assert [f.severity for f in reported] == ([Severity.ERROR] if told else [])


@pytest.mark.parametrize(
    ("config", "arguments", "to", "severity"),
    [
        ("", (), "v1.34.9", Severity.WARNING),
        ("", (), "v1.35.0", Severity.ERROR),
        ("failCgroupV1: true", (), "v1.37.2", Severity.ERROR),
        ("failCgroupV1: false", (), "v1.37.2", Severity.WARNING),
        ("", ("--fail-cgroupv1=false",), "v1.37.2", Severity.WARNING),
    ],
)
def test_cgroup_v1_is_a_fault_where_the_new_kubelet_refuses_it(config, arguments, to, severity):
    host = kubelet(config, arguments=arguments, cgroup="v1")

    assert only(situation(plane(), host, to=(parse(to),)), "CgroupV1").severity is severity


@pytest.mark.parametrize(
    ("runtime", "to", "severity"),
    [
        ("containerd://1.6.20", "v1.35.4", None),
        ("containerd://1.7.27", "v1.36.3", Severity.WARNING),
        ("containerd://1.6.20", "v1.37.2", Severity.WARNING),
        ("containerd://1.7.27", "v1.38.0", Severity.ERROR),
        ("containerd://2.1.4", "v1.38.0", None),
        ("cri-o://1.36.0", "v1.38.0", None),
        ("", "v1.38.0", None),
    ],
)
def test_an_old_containerd_is_told_before_it_stops_working(runtime, to, severity):
    made = situation(nodes=(node("cp1"), node("w1", container_runtime=runtime)), to=(parse(to),))

    reported = found(made, "Containerd")

    assert [f.severity for f in reported] == ([severity] if severity else [])
    assert all(runtime in f.text for f in reported)


def test_who_wrote_objects_in_a_version_that_goes_is_told_with_an_example():
    entry = Written("networking.k8s.io/v1beta1/servicecidrs", "helm", 3, "extra")

    one = only(situation(written=(entry,)), "WrittenInRemovedApis")

    assert one.severity is Severity.WARNING
    assert "helm wrote 3 objects as networking.k8s.io/v1beta1/servicecidrs, which 1.37 does not" in one.text
    assert one.text.endswith("extra and others")
    assert "networking.k8s.io/v1 " in one.remedy


def test_of_a_version_that_stays_who_wrote_is_no_matter():
    entry = Written("networking.k8s.io/v1/ingresses", "helm", 1, "shop/web")

    assert found(situation(written=(entry,)), "WrittenInRemovedApis") == []


@pytest.mark.parametrize("hidden", [{"deprecated": None}, {"written": None}])
def test_what_may_not_be_read_is_told_to_be_unknown(hidden):
    one = only(situation(**hidden), "ApisUnread")

    assert one.severity is Severity.NOTE
    assert "may not read" in one.text


@pytest.mark.parametrize(("name", "told"), [("cp1", True), ("w1", False)])
def test_a_control_plane_with_another_runtime_cannot_be_fetched_for(name, told):
    made = situation()
    nodes = tuple(replace(n, container_runtime="cri-o://1.36.0") if n.name == name else n for n in made.nodes)

    reported = found(replace(made, nodes=nodes), "Runtime")

    assert [(f.severity, f.where) for f in reported] == ([(Severity.FORBIDDEN, "cp1")] if told else [])
    assert all("cri-o://1.36.0" in f.text for f in reported)
