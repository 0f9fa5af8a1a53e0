"""What hosts answer, read into facts."""

from pathlib import Path

import pytest

from orchestrator.cluster import hostfacts
from orchestrator.cluster.frame import Section, sections
from orchestrator.cluster.hostfacts import EtcdFacts, HostFacts, Manifest
from orchestrator.cluster.kubeadm import Complaint
from orchestrator.cluster.versions import parse
from orchestrator.errors import FactUnreadable

FACTS = Path(__file__).parent / "facts" / "hosts"
V136 = parse("v1.36.3")


def captured(name):
    return (FACTS / f"{name}.txt").read_text()


@pytest.fixture
def plane():
    return hostfacts.parse_look("dev-control-plane", captured("examine.dev-control-plane"))


@pytest.fixture
def worker():
    return hostfacts.parse_look("dev-worker", captured("examine.dev-worker"))


# ---- the frame --------------------------------------------------------------------------------------------------


def test_an_answer_is_taken_apart_at_its_heads():
    found = sections("noise\n noise\n@@disk /\n a\n b\n@@empty\n@@disk /var lib\n c\n")

    assert found == {
        "disk": [Section(("/",), "a\nb"), Section(("/var", "lib"), "c")],
        "empty": [Section((), "")],
    }


def test_a_line_that_looks_like_a_head_inside_of_a_text_is_text():
    assert sections("@@file /x\n @@boot\n  two\n@@boot\n id") == {
        "file": [Section(("/x",), "@@boot\n two")],
        "boot": [Section((), "id")],
    }


@pytest.mark.parametrize("answer", ["", "\n", " text\n", "nothing at all"])
def test_an_answer_without_heads_has_no_sections(answer):
    assert sections(answer) == {}


def test_a_head_without_a_name_is_none_and_what_follows_it_is_lost():
    assert sections("@@boot\n id\n@@\n lost\n") == {"boot": [Section((), "id")]}


# ---- a host -----------------------------------------------------------------------------------------------------


def test_a_control_plane_tells_what_runs_and_what_is_installed(plane):
    assert plane.node == "dev-control-plane"
    assert plane.boot == "7518f623-7d1d-4ddd-a69b-77841a3a400a"
    assert (plane.os, plane.apt) == ("Debian GNU/Linux 12 (bookworm)", True)
    assert (plane.kubeadm, plane.kubelet, plane.running) == (V136, V136, V136)
    assert not plane.replaced
    assert plane.arguments[0] == "--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf"
    assert set(plane.packages) == {"kubeadm", "kubelet", "kubectl"}
    assert all(p.held and p.whole and p.revision == "1.36.3-1.1" for p in plane.packages.values())
    assert plane.unfinished == ""
    assert [s.minors for s in plane.sources] == [("1.36",)]
    assert plane.locks == {}


def test_its_static_pods_are_known_by_manifest_and_by_process(plane):
    server = plane.manifests["kube-apiserver"]

    assert tuple(plane.manifests) == hostfacts.STATIC
    assert tuple(plane.components) == hostfacts.STATIC
    assert plane.components["etcd"] == parse("3.6.8")
    assert server.image == "registry.k8s.io/kube-apiserver:v1.36.3"
    assert server.version == V136
    assert server.flag("advertise-address") == "198.18.1.11"
    assert server.flag("runtime-config") == ""
    assert server.flag("feature-gates") == ""
    assert plane.manifests["etcd"].flag("data-dir") == "/var/lib/etcd"
    assert (plane.control_plane, plane.server) == (True, V136)


def test_its_disks_settings_and_certificates_are_known(plane):
    assert {path: disk.mount for path, disk in plane.disks.items()} == {
        "/": "/",
        "/etc/kubernetes": "/",
        "/var/lib/etcd": "/var",
        "/var/lib/containerd": "/var",
        "/var/cache/apt/archives": "/var",
    }
    assert plane.disks["/"].free_bytes == 49246855168 < plane.disks["/"].size_bytes
    assert plane.sizes_bytes == {"/var/lib/etcd": 129622016, "/etc/kubernetes/tmp": 8192}
    assert (plane.swap, plane.cgroup) == (False, "v1")
    assert "failCgroupV1: false" in plane.files["/var/lib/kubelet/config.yaml"]
    assert (
        plane.files["/etc/default/kubelet"] == "KUBELET_EXTRA_ARGS=--runtime-cgroups=/system.slice/containerd.service"
    )
    assert "registry.k8s.io/etcd:3.7.0-0" in plane.images
    assert len(plane.certificates) == 14


def test_a_worker_has_no_part_of_a_control_plane(worker):
    assert (worker.control_plane, worker.server) == (False, None)
    assert (worker.manifests, worker.components, worker.certificates, worker.sizes_bytes) == ({}, {}, (), {})
    assert worker.running == V136
    assert len(worker.images) > 10


def test_a_host_with_nothing_on_it_is_empty_and_not_an_error():
    answer = "@@boot\n id\n@@clock\n@@os\n Rocky Linux 9.4\n@@kubelet\n@@installed\n@@unfinished\n@@swap\n@@cgroup\n"

    assert hostfacts.parse_look("n", answer) == HostFacts("n", boot="id", os="Rocky Linux 9.4")
    assert hostfacts.parse_look("n", "") == HostFacts("n")


def test_trouble_on_a_host_is_found():
    found = hostfacts.parse_look(
        "n",
        "@@running /usr/bin/kubelet (deleted)\n Kubernetes v1.36.3\n"
        "@@unfinished\n The following packages are only half configured:\n  kubelet\n"
        "@@lock /var/lib/dpkg/lock-frontend\n 812 /usr/bin/unattended-upgrade \n"
        "@@swap\n /dev/vdb partition 1 0 -2\n"
        "@@cgroup\n cgroup2fs\n"
        "@@component kube-apiserver 7\n"
        "@@source /etc/apt/sources.list\n deb http://deb.debian.org/debian bookworm main\n"
        "@@manifest /etc/kubernetes/manifests/kube-apiserver.yaml\n spec:\n"
        "@@manifest /etc/kubernetes/manifests/notes.txt\n hello\n",
    )

    assert found.replaced
    assert found.unfinished.endswith("kubelet")
    assert found.locks == {"/var/lib/dpkg/lock-frontend": "812 /usr/bin/unattended-upgrade"}
    assert (found.swap, found.cgroup) == (True, "v2")
    assert found.components == {"kube-apiserver": None}
    assert found.sources == ()
    assert found.manifests == {"kube-apiserver": Manifest("kube-apiserver", "", "spec:")}
    assert (found.control_plane, found.server) == (True, None)


def test_what_commands_left_on_a_host_is_known_by_plan():
    assert hostfacts.parse_look("n", "@@left\n upgrade-a\n upgrade-b\n").left == {"upgrade-a", "upgrade-b"}


@pytest.mark.parametrize(
    ("manifest", "process", "server"),
    [
        ("v1.37.2", "v1.36.3", "v1.36.3"),
        ("v1.36.3", "v1.37.2", "v1.36.3"),
        ("v1.37.2", None, "v1.37.2"),
        ("latest", "v1.37.2", "v1.37.2"),
        ("latest", None, None),
    ],
)
def test_an_api_server_is_as_old_as_the_older_one_of_its_manifest_and_its_process(manifest, process, server):
    found = HostFacts(
        "n",
        manifests={"kube-apiserver": Manifest("kube-apiserver", f"k8s/kube-apiserver:{manifest}", "")},
        components={"kube-apiserver": parse(process) if process else None},
    )

    assert found.server == (parse(server) if server else None)


@pytest.mark.parametrize(
    "line", ['- "--feature-gates=A=true"', "- --feature-gates=A=true", '   - "--feature-gates=A=true"']
)
def test_a_flag_is_found_however_it_is_quoted(line):
    manifest = Manifest("x", "x:1", f"  - kube-apiserver\n  {line}\n  - --not-feature-gates=B=true\n")

    assert manifest.flag("feature-gates") == "A=true"


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("@@disk /\n df: cannot\n", "df printed 'df: cannot'"),
        ("@@disk /\n overlay many 1 2 3% /\n", "df reads 'many'"),
        ("@@sizes\n much\t/var/lib/etcd\n", "du reads 'much'"),
        ("@@certificates\n error\n", "certs check-expiration"),
    ],
)
def test_a_part_of_another_form_is_an_error_and_not_a_host_in_order(answer, what):
    with pytest.raises(FactUnreadable, match=what):
        hostfacts.parse_look("n", answer)


def test_a_line_of_du_that_is_no_size_does_not_count():
    assert hostfacts.parse_look("n", "@@sizes\n 5\t/a\n du: cannot read\n").sizes_bytes == {"/a": 5}


# ---- etcd and the API server ------------------------------------------------------------------------------------


def test_etcd_is_read_with_its_health_and_without_alarms():
    found = hostfacts.parse_etcd(captured("etcd"))

    assert [m.name for m in found.members] == ["dev-control-plane"]
    assert [(s.version, s.quota_bytes) for s in found.statuses] == [("3.6.8", 2147483648)]
    assert found.health == {"https://198.18.1.11:2379": ""}
    assert found.alarms == ()


def test_a_host_without_etcd_has_no_members():
    assert hostfacts.parse_etcd("") == EtcdFacts()
    assert hostfacts.parse_etcd("@@members\n@@status\n@@health\n@@alarms\n") == EtcdFacts()


def test_a_member_that_does_not_tell_is_not_taken_for_one_elsewhere():
    assert hostfacts.parse_etcd("@@stacked\n@@members\n@@status\n@@health\n@@alarms\n") == EtcdFacts(stacked=True)
    assert hostfacts.parse_etcd("@@stacked\n" + captured("etcd")).stacked


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", ""),
        ("@@broken https://lb:6443\n Unable to connect\n", "https://lb:6443: Unable to connect"),
        ("@@broken https://lb:6443\n", "https://lb:6443: no answer"),
    ],
)
def test_an_endpoint_that_breaks_says_where_and_why(answer, why):
    assert hostfacts.parse_endpoint(answer) == why


@pytest.mark.parametrize(
    ("answer", "stale"),
    [
        ("@@wanted\n a\n b\n@@pod etcd\n a\n@@pod kube-apiserver\n c\n", ("kube-apiserver",)),
        ("@@wanted\n a\n@@pod etcd\n@@pod kube-apiserver\n a\n", ()),
        ("@@wanted\n@@pod etcd\n a\n", ()),
        ("@@wanted\n a\n b\n@@mirror\n a\n@@pod etcd\n a\n@@pod kube-apiserver\n b\n", ("kube-apiserver",)),
        ("@@wanted\n a\n@@mirror\n@@pod etcd\n a\n", ()),
        ("", ()),
    ],
)
def test_static_pods_are_those_that_the_kubelet_is_to_run_and_the_api_knows(answer, stale):
    assert hostfacts.parse_static_pods(answer) == stale


def test_members_are_known_though_none_answers():
    members = captured("etcd").split("@@status")[0]

    found = hostfacts.parse_etcd(members + '@@status\n@@health\n@@alarms\n {"alarms":[{"memberID":255,"alarm":1}]}\n')

    assert len(found.members) == 1
    assert (found.statuses, found.health) == ((), {})
    assert found.alarms == ("NOSPACE on member ff",)


def test_an_answer_without_the_alarms_is_an_error_and_not_a_cluster_without_them():
    with pytest.raises(FactUnreadable, match="alarm list"):
        hostfacts.parse_etcd(captured("etcd").split("@@alarms")[0])


def test_an_api_server_that_answers_tells_its_version():
    assert hostfacts.parse_api(captured("api")) == ("", V136)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("@@broken readyz\n [-]etcd failed: reason withheld\n", "readyz: [-]etcd failed: reason withheld"),
        ("@@broken read\n", "read: no answer"),
        ("@@version\n", "no answer to /version"),
        ("", "no answer to /version"),
    ],
)
def test_an_api_server_that_does_not_has_a_reason(answer, why):
    assert hostfacts.parse_api(answer) == (why, None)


@pytest.mark.parametrize(
    ("answer", "watches"),
    [
        ("@@watches\n 12\n", 12),
        ("@@watches\n 1.2e+03\n", 1200),
        ("@@watches\n 0\n", None),
        ("@@watches\n .\n", None),
        ("@@watches\n Error from server (Forbidden)\n", None),
        ("@@watches\n", None),
        ("", None),
    ],
)
def test_how_many_follow_pods_is_a_number_or_not_known(answer, watches):
    assert hostfacts.parse_watches(answer) == watches


# ---- repositories and kubeadm -----------------------------------------------------------------------------------

MADISON = "@@madison\n" + "".join(
    f"    {name} | 1.37.2-1.1 | http://x/core:/stable:/v1.37/deb  Packages\n"
    for name in ("kubeadm", "kubelet", "kubectl")
)


@pytest.mark.parametrize(
    ("update", "error"),
    [
        ("@@update 0\n Get:1 http://x InRelease [1394 B]\n Reading package lists...\n", ""),
        ("@@update 0\n", ""),
        (
            "@@update 0\n Err:1 http://x InRelease\n W: Failed to fetch http://x\n",
            "Err:1 http://x InRelease; W: Failed to fetch http://x",
        ),
        ("@@update 100\n E: The repository is not signed.\n", "E: The repository is not signed."),
        ("@@update 100\n Error: The repository is not signed.\n", "Error: The repository is not signed."),
    ],
)
def test_what_a_repository_offers_comes_with_what_apt_complains_of(update, error):
    found = hostfacts.parse_offers(update + MADISON)

    assert found.versions == {parse("1.37.2"): "1.37.2-1.1"}
    assert found.error == error


@pytest.mark.parametrize(
    ("update", "error"),
    [
        ("@@update 137\n Reading package lists...\n", "Reading package lists..."),
        ("@@update 137\n", "apt-get update ended with 137"),
        ("@@update\n", "apt-get update ended with no code"),
    ],
)
def test_an_update_that_fails_without_a_word_has_failed_all_the_same(update, error):
    assert hostfacts.parse_offers(f"{update}@@madison\n").error == error


@pytest.mark.parametrize(
    "warning",
    [
        "W: http://x: Key is stored in legacy trusted.gpg keyring (/etc/apt/trusted.gpg), see apt-key(8).",
        "Warning: http://x: Policy will reject signature within a year, see --audit for details",
    ],
)
def test_what_will_be_wrong_one_day_is_not_wrong_now(warning):
    assert hostfacts.parse_offers(f"@@update 0\n {warning}\n{MADISON}").error == ""


def test_a_version_that_is_offered_is_one_without_the_packages_revision():
    (version,) = hostfacts.parse_offers(f"@@update 0\n{MADISON}").versions

    assert str(version) == "v1.37.2"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("@@certificates 1\n \n@@unread\n error: no such file\n", "error: no such file"),
        ("@@certificates 1\n@@unread\n", "kubeadm failed without a word"),
        ("@@certificates 0\n", ""),
        ("", ""),
    ],
)
def test_certificates_that_kubeadm_could_not_look_at_come_with_why(answer, why):
    found = hostfacts.parse_look("n1", answer)

    assert (found.certificates, found.certificates_unread) == ((), why)


@pytest.mark.parametrize(("at", "ahead"), [(99.0, -1.0), (100.0, 0.0), (120.0, 0.0), (130.5, 10.5)])
def test_a_clock_is_held_against_the_moment_when_it_was_asked(at, ahead):
    assert hostfacts.parse_clock("n1", f"@@clock\n {at}\n", (100.0, 120.0)) == ahead


@pytest.mark.parametrize("answer", ["", "@@clock\n \n", "@@clock\n noon\n"])
def test_a_clock_that_tells_no_time_is_an_error(answer):
    with pytest.raises(FactUnreadable, match="n1: its clock reads"):
        hostfacts.parse_clock("n1", answer, (0.0, 1.0))


def test_a_version_is_offered_only_with_all_of_its_packages():
    listed = MADISON + " kubeadm | 1.37.3-1.1 | x\n kubelet | 1.37.3-1.1 | x\n kubectl | 1.37.1-1.1 | x\n"

    found = hostfacts.parse_offers(f"@@update 0\n{listed}")

    assert [str(v) for v in found.versions] == ["v1.37.2"]
    assert {str(v): names for v, names in found.lacking.items()} == {
        "v1.37.3": ("kubectl",),
        "v1.37.1": ("kubeadm", "kubelet"),
    }


NOT_THERE = (
    " Err:2 http://x  Release\n   404  Not Found [IP: 198.18.0.1 80]\n E: The repository 'http://x' does not have"
)


@pytest.mark.parametrize(
    ("said", "absent"),
    [
        (f"{NOT_THERE} a Release file.\n", True),
        (f"{NOT_THERE} a Release file.\n".replace("404  Not Found", "503  Service Unavailable"), False),
        (" Err:1 http://x InRelease\n   Could not connect to x:80\n W: Failed to fetch http://x/InRelease\n", False),
        (" E: The repository is not signed.\n", False),
        (" Hit:1 http://x\n", False),
    ],
)
def test_a_repository_that_is_not_there_is_no_repository_that_does_not_answer(said, absent):
    assert hostfacts.parse_offers(f"@@update 100\n{said}@@madison\n").absent is absent


@pytest.mark.parametrize("answer", ["", "@@update 0\n", MADISON])
def test_an_answer_of_half_is_no_answer(answer):
    with pytest.raises(FactUnreadable, match="apt said nothing"):
        hostfacts.parse_offers(answer)


def test_kubeadms_complaints_come_with_why_it_ended_otherwise():
    fatal = " \t[ERROR SystemVerification]: cgroups v1 support is deprecated\n"
    mild = " \t[WARNING ContainerRuntimeVersion]: update it\n"

    assert hostfacts.parse_preflight("@@preflight 0\n@@end\n done\n") == ((), "")
    assert hostfacts.parse_preflight(f"@@preflight 0\n{mild}@@end\n done\n") == (
        (Complaint("ContainerRuntimeVersion", fatal=False, text="update it"),),
        "",
    )
    assert hostfacts.parse_preflight(f"@@preflight 1\n{mild}{fatal}@@end\n error: failed\n") == (
        (
            Complaint("SystemVerification", fatal=True, text="cgroups v1 support is deprecated"),
            Complaint("ContainerRuntimeVersion", fatal=False, text="update it"),
        ),
        "",
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("@@failed\n E: Unable to locate package kubeadm\n", "E: Unable to locate package kubeadm"),
        ("@@preflight 1\n@@end\n error: no such config map\n", "error: no such config map"),
        ("@@preflight 1\n", "it failed without a word"),
        ("", "no answer"),
    ],
)
def test_checks_that_could_not_be_made_are_not_checks_that_passed(answer, why):
    assert hostfacts.parse_preflight(answer) == ((), why)


def test_a_long_failure_is_told_by_its_end():
    _, why = hostfacts.parse_preflight("@@failed\n " + "x" * 2000 + " the end\n")

    assert len(why) == 512
    assert why.endswith("the end")


def test_manifests_that_were_edited_are_a_diff_and_nothing_before_it_counts():
    diff = "--- /etc/kubernetes/manifests/kube-apiserver.yaml\n+++ new manifest\n@@ -1 +1 @@\n-    - --v=4"
    answer = "@@diff 0\n" + "".join(f" {line}\n" for line in ("[upgrade/diff] Reading", *diff.split("\n")))

    assert hostfacts.parse_edited(answer) == (diff, "")
    assert hostfacts.parse_edited("@@diff 0\n [upgrade/diff] Reading\n@@why\n W1 a warning\n") == ("", "")
    assert hostfacts.parse_edited(answer.replace("diff 0", "diff 1") + "@@why\n no file\n") == (diff, "no file")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("@@diff 1\n@@why\n error: no configuration\n", "error: no configuration"),
        ("@@diff 1\n@@why\n", "it failed without a word"),
        ("", "it failed without a word"),
    ],
)
def test_a_comparison_that_failed_is_not_one_that_found_nothing(answer, why):
    assert hostfacts.parse_edited(answer) == ("", why)


def test_images_that_a_new_version_wants_are_those_that_its_kubeadm_names():
    answer = "@@wanted\n registry.k8s.io/etcd:3.7.0-0\n registry.k8s.io/pause:3.10.2\n@@preflight 0\n@@end\n"

    assert hostfacts.parse_wanted(answer) == ("registry.k8s.io/etcd:3.7.0-0", "registry.k8s.io/pause:3.10.2")
    assert hostfacts.parse_wanted("@@preflight 0\n") == ()
    assert hostfacts.parse_unlisted(answer) == hostfacts.parse_unlisted("@@wanted 0\n@@unlisted\n W1 x\n") == ""
    assert hostfacts.parse_unlisted("@@wanted 1\n@@unlisted\n no such config map\n") == "no such config map"
    assert hostfacts.parse_unlisted("@@wanted 1\n@@unlisted\n") == "kubeadm failed without a word"
