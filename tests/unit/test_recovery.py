"""Recovery sets: what they tell, what of them is one node's, what goes to each, and whether machines are fresh."""

import io
import subprocess
import tarfile

import pytest
import yaml

from orchestrator.backup import recovery as sets
from orchestrator.cluster import hostfacts
from orchestrator.cluster.recovery import (
    CONFIGMAPS,
    MANIFESTS,
    PKI,
    SHARED,
    SIGNED,
    TOOL,
    Heard,
    Member,
    configured,
    encryption,
    heard,
    machine,
    named,
    provider_of,
    rewritten,
    sockets,
    told,
    unfit,
)
from orchestrator.errors import BackupError, FactUnreadable, Refused, SnapshotInvalid
from tests.fakes.recoverysets import CONFIGURATION, ETCD, FLAGS, RUNTIME, SERVER, answer, archive, texts

ONE, TWO = (Member(f"cp-{n}", f"https://198.18.0.1{n}:2380", f"198.18.0.1{n}") for n in (1, 2))
NODE = {"name": "cp-1", "address": "198.18.0.11"}


def known(**changes):
    found = texts(**changes)
    return told(found, found.keys())


# ---- what it tells ----------------------------------------------------------------------------------------------


def test_a_set_tells_of_the_control_plane_that_it_was_taken_on():
    found = known()

    assert (found.node, found.address, found.data, found.port) == ("cp-1", "198.18.0.11", "/var/lib/etcd", "6443")
    assert (found.configuration, found.form) == (CONFIGURATION, "kubeadm.k8s.io/v1beta4")
    assert (found.runtime, found.provider) == ("unix:///run/containerd/containerd.sock", "kind://docker/x/cp-1")
    assert not found.overridden
    assert found.images == (
        "registry.k8s.io/etcd:3.6.8-0",
        *(f"registry.k8s.io/kube-{each}:v1.36.3" for each in ("apiserver", "controller-manager", "scheduler")),
    )


def test_what_nothing_names_is_empty():
    found = known(config=None, kubeadm_flags=None, kube_apiserver=SERVER.format(**NODE).replace("secure-port", "x"))

    assert (found.runtime, found.provider, found.port) == ("", "", "6443")


@pytest.mark.parametrize(
    "path",
    [
        f"{MANIFESTS}/etcd.yaml",
        f"{MANIFESTS}/kube-apiserver.yaml",
        f"{MANIFESTS}/kube-scheduler.yaml",
        *SHARED,
        TOOL,
        CONFIGMAPS,
        "/etc/kubernetes/enc/config.yaml",  # without it no Secret can be read
    ],
)
def test_a_set_without_what_cannot_be_made_anew_is_refused_by_name(path):
    found = texts()
    del found[path]

    with pytest.raises(Refused, match=f"the recovery set lacks .*{path}"):
        told(found, found.keys())


@pytest.mark.parametrize("more", ["    - --wal-dir=/wal\n", "    - x\n  securityContext: {runAsUser: 100}\n"])
def test_an_etcd_that_is_set_up_in_another_way_is_refused(more):
    with pytest.raises(Refused, match="that is not rebuilt"):
        known(etcd=ETCD.format(**NODE).replace("    - etcd\n", f"    - etcd\n{more}"))


@pytest.mark.parametrize("text", ["{", "items: []", "items: [{data: {ClusterConfiguration: '{'}}]", "a"])
def test_a_set_without_the_configuration_of_kubeadm_is_unreadable(text):
    with pytest.raises(FactUnreadable, match="no ClusterConfiguration"):
        known(configmaps=text)


def test_certificates_elsewhere_are_refused():
    configuration = CONFIGURATION + "certificatesDir: /elsewhere\n"

    with pytest.raises(Refused, match="certificates are in /elsewhere"):
        known(configmaps=yaml.safe_dump({"items": [{"data": {"ClusterConfiguration": configuration}}]}))


@pytest.mark.parametrize("text", ["spec: {}", "spec: {volumes: []}", "{"])
def test_an_etcd_without_a_directory_is_unreadable(text):
    with pytest.raises(FactUnreadable, match="names no directory"):
        known(etcd=f"{text}\n# - image: x\n# - --name=cp-1\n".replace("# ", "" if text == "{" else "# "))


# ---- when it is made --------------------------------------------------------------------------------------------


def gathered(without=(), **changes):
    return sets.collected(io.BytesIO(archive({p: t for p, t in texts(**changes).items() if p not in without})), "cp-1")


def test_of_a_whole_set_there_is_nothing_to_say():
    assert gathered() == ()


KEYS = [path for path in SHARED if path.endswith("ca.key")]


@pytest.mark.parametrize(
    "path", [*(p for p in SHARED if p not in KEYS), TOOL, CONFIGMAPS, "/etc/kubernetes/enc/config.yaml"]
)
def test_what_a_rebuild_would_miss_is_missed_when_it_is_made(path):
    with pytest.raises(BackupError, match=path) as caught:
        gathered([path])

    assert "--no-recovery-set" in caught.value.remedy


MOUNTED = """\
spec:
  containers:
  - command:
    - kube-apiserver
    - --encryption-provider-config=/etc/kubernetes/enc/config.yaml
    - "--audit-policy-file=/srv/policy/audit.yaml"
    - --tls-cert-file=/etc/kubernetes/pki/apiserver.crt
    - --token-auth-file=/tokens
    - --audit-webhook-config-file=/srv/policyholder.yaml
    - --cert-dir=/certs
    - --etcd-servers=https://127.0.0.1:2379
    image: registry.k8s.io/kube-apiserver:v1.36.3
    volumeMounts:
    - {mountPath: /etc/kubernetes, name: all}
    - {mountPath: /etc/kubernetes/pki, name: pki}
    - {mountPath: /srv/policy/, name: policies, subPath: v1}
    - {mountPath: /tokens, name: tokens}
    - {mountPath: /certs, name: scratch}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki}}
  - {name: all, hostPath: {path: /opt/cluster/}}
  - {name: policies, hostPath: {path: /opt/policies}}
  - {name: tokens, hostPath: {path: /root/tokens.csv, type: File}}
  - {name: scratch, emptyDir: {}}
"""


def test_files_of_the_api_server_are_where_the_host_has_them():
    assert named(MOUNTED) == (
        ("encryption-provider-config", "/opt/cluster/enc/config.yaml"),
        ("audit-policy-file", "/opt/policies/v1/audit.yaml"),
        ("tls-cert-file", "/etc/kubernetes/pki/apiserver.crt"),
        ("token-auth-file", "/root/tokens.csv"),
        ("audit-webhook-config-file", "/srv/policyholder.yaml"),
        ("cert-dir", "/certs"),
    )


@pytest.mark.parametrize(("text", "path"), [(MOUNTED, "/opt/cluster/enc/config.yaml"), ("spec: {}", ""), ("", "")])
def test_keys_of_encryption_at_rest_are_where_the_host_has_them(text, path):
    assert encryption(text) == path


@pytest.mark.parametrize(
    ("endpoint", "there"),
    [
        ("unix:///etc/kubernetes/enc/kms.sock", "unix:///opt/cluster/enc/kms.sock"),
        ("unix:///etc/kubernetes/pki/kms.sock", "unix:///etc/kubernetes/pki/kms.sock"),
        ("unix:////srv/policy/kms.sock", "unix:///opt/policies/v1/kms.sock"),
        ("unix:///tokens", "unix:///root/tokens.csv"),
        ("unix:///tokens.sock", "unix:///tokens.sock"),
        ("unix:///@abstract", "unix:///@abstract"),
    ],
)
def test_sockets_are_named_as_the_host_has_them_in_every_form(endpoint, there):
    for form in ("a: {0}\nb: {0}\n", 'a: "{0}"\n', "[{{'a': '{0}'}}, {{a: {0}}}]\n"):
        argv = ["sed", "-e", sockets(MOUNTED)]
        done = subprocess.run(argv, input=form.format(endpoint), capture_output=True, text=True, check=True)
        assert done.stdout == form.format(there)


def test_a_path_of_the_host_that_is_another_one_in_the_container_is_not_replaced_again():
    mounts = "[{mountPath: /in/keys, name: a}, {mountPath: /opt, name: b}]"
    volumes = "[{name: a, hostPath: {path: /opt/keys}}, {name: b, hostPath: {path: /srv/opt}}]"
    text = f"spec: {{containers: [{{command: [kube-apiserver], volumeMounts: {mounts}}}], volumes: {volumes}}}"
    argv = ["sed", "-e", sockets(text)]

    done = subprocess.run(argv, input="unix:///in/keys/s\n", capture_output=True, text=True, check=True)

    assert done.stdout == "unix:///opt/keys/s\n"


@pytest.mark.parametrize("text", ["{", "[]", "spec: {volumes: [{}]}", "spec: {volumes: [], containers: []}", "spec: a"])
def test_of_a_manifest_that_tells_no_mounts_paths_are_the_hosts(text):
    command = f"{text}\n    - --token-auth-file=/a/b\n"

    assert named(command) == (("token-auth-file", "/a/b"),)


def test_a_file_that_the_container_has_elsewhere_is_missed_where_the_host_has_it():
    with pytest.raises(BackupError) as caught:
        gathered(kube_apiserver=MOUNTED)

    missing = "/opt/cluster/enc/config.yaml, /opt/policies/v1/audit.yaml, /root/tokens.csv, /srv/policyholder.yaml"
    assert missing in str(caught.value)


@pytest.mark.parametrize("path", KEYS)
def test_the_key_of_an_authority_may_be_with_somebody_else(path):
    [said] = gathered([path])

    assert said.startswith(f"cp-1 has no {path}: ")


ETCDS = (f"{MANIFESTS}/etcd.yaml", f"{PKI}/etcd/ca.crt", f"{PKI}/etcd/ca.key")


def test_an_etcd_that_is_no_static_pod_is_said_to_be_rebuilt_by_hand():
    [said] = gathered(ETCDS)

    assert said.startswith(f"cp-1 has no {', '.join(ETCDS)}: ")


def test_where_etcd_is_no_static_pod_its_programs_need_not_be_there():
    [said] = gathered([*ETCDS, TOOL])

    assert TOOL in said


def test_certificates_of_an_etcd_that_is_a_static_pod_have_to_be_there():
    with pytest.raises(BackupError, match=f"{PKI}/etcd/ca.crt"):
        gathered(ETCDS[1:])


def test_an_etcd_that_is_set_up_in_another_way_is_said_to_be_rebuilt_by_hand():
    [said] = gathered(etcd=ETCD.format(**NODE).replace("    - etcd\n", "    - etcd\n    - --wal-dir=/wal\n"))

    assert said.startswith("cp-1 keeps etcd's log apart")


@pytest.mark.parametrize("changes", [{"configmaps": ""}, {"etcd": "# - image: x\n- image: x\n- --name=cp-1\n"}])
def test_what_cannot_be_read_in_it_has_a_remedy_of_its_own(changes):
    with pytest.raises(FactUnreadable) as caught:
        gathered(**changes)

    assert caught.value.remedy == "see to it on cp-1; or leave the set out: --no-recovery-set"


def test_what_a_rebuild_can_do_without_is_said():
    flags = 'KUBELET_KUBEADM_ARGS="--node-ip=198.18.0.11,fd00::1"\n'

    first, second = gathered(["/var/lib/kubelet/config.yaml"], kubeadm_flags=flags)

    assert first.startswith("cp-1 has no /var/lib/kubelet/config.yaml")
    assert second == "cp-1 has two addresses: only cp-1 can be made of its set, others have to join it"


def test_what_is_no_set_is_told_by_its_host():
    with pytest.raises(SnapshotInvalid, match="what cp-1 packed is no recovery set"):
        sets.collected(io.BytesIO(b"x" * 700), "cp-1")


# ---- made another node's ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [p for p in texts() if p.startswith((MANIFESTS, "/var/lib/kubelet"))])
def test_where_it_was_taken_every_file_is_byte_by_byte_the_same(path):
    assert rewritten(path, texts()[path], known(), ONE, [ONE]) == texts()[path]


def test_another_node_has_its_own_name_and_addresses_in_its_manifests():
    here, found = known(), texts()
    etcd = rewritten(f"{MANIFESTS}/etcd.yaml", found[f"{MANIFESTS}/etcd.yaml"], here, TWO, [ONE, TWO])
    server = rewritten(f"{MANIFESTS}/kube-apiserver.yaml", found[f"{MANIFESTS}/kube-apiserver.yaml"], here, TWO, [TWO])

    everyone = "--initial-cluster=cp-1=https://198.18.0.11:2380,cp-2=https://198.18.0.12:2380"
    alone = "--initial-cluster=cp-2=https://198.18.0.12:2380"
    assert everyone in etcd
    assert etcd.replace(everyone, alone) == ETCD.format(name="cp-2", address="198.18.0.12")
    assert server == SERVER.format(name="cp-2", address="198.18.0.12")


def test_the_kubelet_of_another_node_has_its_own_name_and_address():
    path = "/var/lib/kubelet/kubeadm-flags.env"

    assert rewritten(path, FLAGS.format(**NODE), known(), TWO, [TWO]) == FLAGS.format(
        name="cp-2", address="198.18.0.12"
    )


@pytest.mark.parametrize("text", ["a: 198.18.0.110", "a: 1198.18.0.11", "a: 198.18.0.11.9", "--x=cp-1", "--name=cp-10"])
def test_what_only_looks_like_its_address_or_name_stays(text):
    assert rewritten("/x", text, known(), TWO, [TWO]) == text


def test_addresses_of_ipv6_are_taken_as_a_whole():
    found = texts(address="fd00::1")
    here = told(found, found.keys())
    two = Member("cp-2", "https://[fd00::2]:2380", "fd00::2")

    assert rewritten("/x", "[fd00::1]:6443 fd00::1 fd00::1:5", here, two, [two]) == "[fd00::2]:6443 fd00::2 fd00::1:5"


def test_a_second_address_of_another_node_is_not_known():
    with pytest.raises(Refused, match="gives its node two addresses"):
        rewritten("/x", '"--node-ip=198.18.0.11,fd00::1"', known(), TWO, [TWO])


def test_a_provider_id_is_anothers_only_where_the_nodes_name_is_in_it():
    assert provider_of(known(), "cp-1") == "kind://docker/x/cp-1"
    assert provider_of(known(), "cp-2") == "kind://docker/x/cp-2"
    assert provider_of(known(kubeadm_flags="--provider-id=aws:///i-1"), "cp-2") == ""
    assert provider_of(known(kubeadm_flags="--provider-id=aws:///i-1"), "cp-1") == "aws:///i-1"


def test_kubeadm_is_told_the_node_for_which_it_signs():
    first, second = yaml.safe_load_all(configured(known(), TWO))

    assert first == {
        "apiVersion": "kubeadm.k8s.io/v1beta4",
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": "198.18.0.12", "bindPort": 6443},
        "nodeRegistration": {"name": "cp-2", "criSocket": "unix:///run/containerd/containerd.sock"},
    }
    assert second == yaml.safe_load(CONFIGURATION)
    assert "criSocket" not in configured(known(config=None), TWO)


# ---- archives ---------------------------------------------------------------------------------------------------


def opened(**changes):
    return sets.read(io.BytesIO(archive(texts(**changes), links=["etc/kubernetes/pki/link"])), "x.recovery.tar")


def contents(packed):
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        return {e.name: (tar.extractfile(e).read().decode(), e.mode, e.uid, e.gid, e.mtime) for e in tar}


def test_a_set_is_read_with_owners_modes_and_times_and_no_links():
    found = opened()

    assert found.files[f"{PKI}/ca.key"] == sets.File(f"{PKI}/ca.key\n".encode(), 0o640, 3, 4, 1000)
    assert found.told == known()
    assert not any("link" in name for name in found.files)


def test_each_control_plane_gets_what_is_everyones_and_nothing_that_is_anothers():
    found = contents(sets.packed(opened(), TWO, [ONE, TWO], "/aside"))

    assert set(found) == {
        *(f"host{path}" for path in SHARED),
        *(f"host/aside/{name}.yaml" for name in hostfacts.STATIC),
        "host/etc/kubernetes/enc/config.yaml",
        "host/var/lib/kubelet/config.yaml",
        "host/var/lib/kubelet/kubeadm-flags.env",
        TOOL,
        sets.CONFIGURATION,
    }
    assert not {f"host{path}" for path in SIGNED} & set(found)
    assert found[f"host{PKI}/sa.key"] == (f"{PKI}/sa.key\n", 0o640, 3, 4, 1000)
    assert found["host/aside/kube-apiserver.yaml"] == (
        SERVER.format(name="cp-2", address="198.18.0.12"),
        0o640,
        3,
        4,
        1000,
    )
    assert found["host/var/lib/kubelet/config.yaml"][0] == RUNTIME
    assert found[TOOL][1:4] == (0o700, 0, 0)
    assert found[sets.CONFIGURATION][1:4] == (0o600, 0, 0)


@pytest.mark.parametrize("content", [b"not a tar" * 100, archive(texts())[:3000]])
def test_what_is_no_archive_is_no_set(content):
    with pytest.raises((SnapshotInvalid, Refused)):
        sets.read(io.BytesIO(content), "x")


def test_a_set_that_names_files_above_itself_is_refused():
    with pytest.raises(SnapshotInvalid, match="which no set does"):
        sets.read(io.BytesIO(archive({**texts(), "/etc/../root/x": "y"})), "x")


# ---- machines ---------------------------------------------------------------------------------------------------


def test_a_fresh_machine_of_the_name_the_address_and_the_version_fits():
    host = machine("cp-1", answer())

    assert unfit(host, known(), ONE, "3.6.0") == ()
    assert unfit(machine("cp-1", answer(name="CP-1.example.org")), known(), ONE, "") == ()
    assert not any((host.own, host.set, host.snapshot, host.placed, host.member, host.ended, host.kubelet_runs))


def test_what_a_plan_did_there_is_seen():
    heads = ("own", "placed", "set", "snapshot", "member", "ended", "process etcd 7", "process etcd 8")
    host = machine("cp-1", answer(heads=heads, service="active", manifests="./etcd.yaml", aside="./b.yaml\n./a.yaml"))

    assert all((host.own, host.set, host.snapshot, host.placed, host.member, host.ended, host.kubelet_runs))
    assert (host.processes, host.manifests, host.aside) == (("etcd",), ("etcd",), ("a", "b"))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"heads": ["occupied /etc/kubernetes/kubelet.conf"]}, "it has /etc/kubernetes/kubelet.conf: it is not fresh"),
        ({"heads": ["process etcd 7"]}, "etcd runs"),
        ({"others": "rebuild-9"}, "rebuild-9 began there: resume it, or release it"),
        ({"address": "198.18.0.9"}, "it has not the address 198.18.0.11 of cp-1, but 127.0.0.1, 198.18.0.9"),
        ({"name": "cp-2"}, "its host name is cp-2, not cp-1"),
        ({"kubeadm": "v1.37.2"}, "kubeadm is v1.37.2, the set is of v1.36.3"),
        ({"kubeadm": ""}, "kubeadm is not installed, the set is of v1.36.3"),
        ({"kubelet": "Kubernetes v1.37.0"}, "the kubelet is v1.37.0, the set's API server v1.36.3"),
        ({"kubelet": ""}, "the kubelet is not installed, the set's API server v1.36.3"),
        ({"kubectl": ""}, "kubectl is not installed"),
        ({"runtime": "inactive\nfailed"}, "neither containerd nor CRI-O runs"),
    ],
)
def test_a_machine_that_does_not_fit_is_told_why(changes, why):
    assert unfit(machine("cp-1", answer(**changes)), known(), ONE, "3.6.0") == (why,)


def test_a_kubelet_that_is_given_its_name_needs_no_host_of_it():
    here = known(kubeadm_flags="--hostname-override=cp-1")

    assert unfit(machine("cp-1", answer(name="other")), here, ONE, "3.6.0") == ()


def test_an_etcd_older_than_the_data_cannot_read_them():
    why = unfit(machine("cp-1", answer()), known(), ONE, "3.7.0")

    assert why == ("the set's etcd is v3.6.8-0, which cannot read data of 3.7.0",)


def test_an_image_without_a_version_cannot_be_judged():
    here = known(kube_apiserver=SERVER.format(**NODE).replace("v1.36.3", "latest"))

    [why] = unfit(machine("cp-1", answer()), here, ONE, "3.6.0")
    assert "its version cannot be told" in why


def test_half_an_answer_is_none():
    with pytest.raises(FactUnreadable, match="cp-1: its answer is not whole"):
        machine("cp-1", "@@name\n cp-1\n")


def test_kubelets_are_heard_of_by_their_leases():
    said = (
        "@@node a True\n fine\n@@node b False\n no network\n@@node c\n\n@@lease a 3\n@@lease b 90\n@@lease c\n@@end\n"
    )

    assert heard(said) == (
        Heard("a", 3, ready=True, why="fine"),
        Heard("b", 90, ready=False, why="no network"),
        Heard("c", None, ready=False, why=""),
    )
    assert heard("") is None
