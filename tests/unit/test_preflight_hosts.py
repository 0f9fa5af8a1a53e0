"""What is said of hosts before an upgrade touches the first node."""

from dataclasses import replace

import pytest

from orchestrator.cluster import preflight
from orchestrator.cluster.hostfacts import Disk, EtcdFacts, Offers
from orchestrator.cluster.kubeadm import Certificate, Complaint
from orchestrator.cluster.packages import Package
from orchestrator.cluster.preflight import Severity
from orchestrator.cluster.versions import Hop, parse
from tests.fakes.situations import (
    DAY,
    NOW,
    V135,
    V136,
    V137,
    at,
    etcd,
    found,
    node,
    only,
    plane,
    situation,
    worker,
)  # fmt: skip

GONE = ("w9: no connection", "see that it is up")


def test_a_host_that_could_not_be_looked_at_forbids_its_upgrade_and_no_other():
    made = situation(plane(), worker("w1"))
    made = replace(made, nodes=(*made.nodes, node("w9")), unseen={"w9": GONE})

    asked = only(replace(made, upgrading=("cp1", "w1", "w9")), "HostUnknown")
    left_out = only(made, "HostUnknown")

    assert (asked.severity, asked.where) == (Severity.FORBIDDEN, "w9")
    assert "no connection" in asked.text
    assert asked.remedy == "see that it is up\nor leave it out: --nodes cp1,w1"
    assert (left_out.severity, left_out.remedy) == (Severity.WARNING, "see that it is up")
    assert only(replace(made, upgrading=("w9",)), "HostUnknown").remedy == "see that it is up"
    assert found(made, "KubeadmPreflight", "PackageVersion") == []


def test_a_control_plane_that_could_not_be_looked_at_forbids_every_upgrade():
    made = situation(plane("cp1"), worker("w1"), etcd=etcd(2))
    made = replace(made, nodes=(*made.nodes, node("cp2", roles=("control-plane",))), unseen={"cp2": GONE})

    one = only(made, "HostUnknown")

    assert (one.severity, one.where) == (Severity.FORBIDDEN, "cp2")
    assert "--nodes" not in one.remedy
    assert found(made, "SingleControlPlane") == []


def test_the_kubelet_of_a_host_that_could_not_be_looked_at_is_held_against_the_skew_policy():
    made = situation(plane(), worker("w1"))
    made = replace(made, nodes=(*made.nodes, node("w9", kubelet_version="v1.33.1")), unseen={"w9": GONE})

    assert "v1.33.1" in only(made, "SkewOnTheWay").text
    unread = replace(made, nodes=(*made.nodes[:-1], node("w9", kubelet_version="?")))
    assert found(unread, "SkewOnTheWay") == []


def test_a_host_without_apt_is_named_and_can_be_left_out():
    made = situation(plane(), worker(apt=False, os="Rocky Linux 9.4", packages={}))

    rpm = only(made, "NoApt")

    assert (rpm.severity, rpm.where) == (Severity.FORBIDDEN, "w1")
    assert "w1 (Rocky Linux 9.4)" in rpm.text
    assert rpm.remedy.endswith("or leave it out: --nodes cp1")
    assert found(made, "NotPackaged", "PackageVersion", "KubeadmPreflight") == []
    many = situation(*(plane(f"cp{i}") for i in range(21)), worker(apt=False), etcd=etcd(21))
    assert "--nodes" not in only(many, "NoApt").remedy


def test_a_version_that_one_node_is_not_offered_forbids_the_start_and_names_it():
    made = situation(plane(), worker("w1"), worker("w2"))
    offers = {**made.offers, "w1": {"1.37": Offers({parse("v1.37.0"): "1.37.0-1.1"}, "")}, "w2": {}}

    one = only(replace(made, offers=offers), "PackageVersion")

    assert (one.severity, one.where) == (Severity.FORBIDDEN, "cluster")
    assert one.text == (
        "Kubernetes v1.37.2 is not offered to 2 of the nodes that need it: w1 (offered: v1.37.0), "
        "w2 (no repository of Kubernetes in its apt sources)"
    )
    assert "/v1.37/deb/" in one.remedy


def test_a_repository_that_cannot_be_used_is_told_in_apts_words():
    made = situation()
    error = "W: GPG error: http://x InRelease: NO_PUBKEY 234654DA9A296436"
    offers = {**made.offers, "w1": {"1.37": Offers({}, error)}}

    reported = found(replace(made, offers=offers))

    assert [(f.check, f.severity, f.where) for f in reported] == [
        ("PackageVersion", Severity.FORBIDDEN, "cluster"),
        ("Repository", Severity.ERROR, "w1"),
    ]
    assert "w1 (offered: nothing)" in reported[0].text
    assert error in reported[1].text


def test_a_version_without_one_of_its_packages_is_not_offered():
    made = situation()
    offers = {**made.offers, "w1": {"1.37": Offers({}, "", lacking={V137: ("kubelet", "kubectl")})}}

    one = only(replace(made, offers=offers), "PackageVersion")

    assert one.text.endswith("w1 (offered: v1.37.2 without kubelet and kubectl)")


@pytest.mark.parametrize(
    ("offers", "told"),
    [
        (Offers({}, "W: Failed to fetch"), True),
        (Offers({}, "E: … does not have a Release file.", absent=True), False),
        (Offers({}, ""), False),
        (None, True),
    ],
)
@pytest.mark.parametrize(("to", "severity"), [((), Severity.ERROR), ((V137,), Severity.WARNING)])
def test_a_minor_that_could_not_be_looked_for_is_told(offers, told, to, severity):
    made = situation(plane(), worker(), to=to, sought="1.38")
    mine = {"cp1": {"1.38": Offers({}, "", absent=True)}, "w1": {"1.38": offers} if offers else {}}
    both = {name: {**minors, **mine[name]} for name, minors in made.offers.items()}

    reported = found(replace(made, offers=both), "Repository")

    assert [(f.where, f.severity) for f in reported] == ([("w1", severity)] if told else [])
    assert all("newer version is not known" in f.text for f in reported)


def test_each_hop_has_to_be_offered_but_to_workers_only_where_they_go():
    made = situation(*(at(h, V135) for h in (plane(), worker())), to=(V136, V137))
    offers = {**made.offers, "w1": {"1.37": made.offers["w1"]["1.37"]}}
    lazy = (Hop(V136, workers=False), Hop(V137, workers=True))

    assert "v1.36.3" in only(replace(made, offers=offers), "PackageVersion").text
    assert found(replace(made, offers=offers, hops=lazy), "PackageVersion") == []


@pytest.mark.parametrize(
    ("changes", "check", "text"),
    [
        ({"unfinished": "half configured:\n kubelet"}, "UnfinishedPackages", "half configured:"),
        (
            {
                "packages": {
                    n: Package(n, "1.36.3-1.1", held=False, whole=n != "kubelet") for n in ("kubeadm", "kubelet")
                }
            },
            "UnfinishedPackages",
            "kubelet",
        ),
        (
            {"locks": {"/var/lib/dpkg/lock-frontend": "812 /usr/bin/unattended-upgrade"}},
            "PackageLock",
            "/var/lib/dpkg/lock-frontend is held by process 812 /usr/bin/unattended-upgrade",
        ),
        ({"packages": {}}, "NotPackaged", "kubeadm and kubelet"),
    ],
)
def test_packages_that_cannot_be_installed_now_are_an_error(changes, check, text):
    one = only(situation(plane(), worker(**changes)), check)

    assert (one.severity, one.where) == (Severity.ERROR, "w1")
    assert text in one.text


def test_held_packages_are_told_and_those_that_are_not_are_none():
    free = {n: Package(n, "1.36.3-1.1", held=False, whole=True) for n in ("kubeadm", "kubelet")}

    assert [f.where for f in found(situation(plane(), worker(packages=free)), "HeldPackages")] == ["cp1"]


MB = 1_000_000


@pytest.mark.parametrize(
    ("disks", "etcd_mb", "hops", "text"),
    [
        ({"/": ("/", 1300)}, 100, 1, ""),
        ({"/": ("/", 1299)}, 100, 1, "/ has 1.3 GB free of 1.3 GB needed"),
        ({"/": ("/", 1300)}, 100, 2, "/ has 1.3 GB free of 1.4 GB needed"),
        ({"/": ("/", 800), "/var/cache/apt/archives": ("/var", 500)}, 100, 1, ""),
        ({"/": ("/", 800), "/var/cache/apt/archives": ("/var", 90)}, 100, 1, "/var has 90 MB free of 500 MB needed"),
        (
            {"/": ("/", 5000), "/var/cache/apt/archives": ("/", 5000), "/etc/kubernetes": ("/etc", 250)},
            100,
            1,
            "/etc has 250 MB free of 300 MB needed: 300 MB for kubeadm's copies in /etc/kubernetes/tmp",
        ),
        (
            {"/": ("/", 5000), "/etc/kubernetes": ("/", 5000), "/etc/kubernetes/tmp": ("/copies", 250)},
            100,
            1,
            "/copies has 250 MB free of 300 MB needed",
        ),
        ({}, 0, 1, "/ has 0 MB free of 1.2 GB needed"),
    ],
)
def test_room_is_counted_for_each_file_system(disks, etcd_mb, hops, text):
    host = plane(
        disks={path: Disk(mount, 10**12, free * MB) for path, (mount, free) in disks.items()},
        sizes_bytes={"/var/lib/etcd": etcd_mb * MB},
    )
    made = situation(host, to=(V136, V137)[-hops:])

    reported = found(made, "DiskSpace")

    assert [f.severity for f in reported] == ([Severity.ERROR] if text else [])
    assert all(text in f.text for f in reported)


def test_a_worker_needs_no_room_for_copies_of_etcd():
    disks = {"/": Disk("/", 10**12, 500 * MB), "/var/cache/apt/archives": Disk("/var", 10**12, 500 * MB)}

    assert found(situation(plane(), worker(disks=disks)), "DiskSpace") == []


def test_kubeadms_complaints_keep_its_own_names():
    fatal = Complaint("SystemVerification", fatal=True, text="cgroups v1")
    mild = Complaint("ContainerRuntimeVersion", fatal=False, text="update it")
    made = situation(checks={"cp1": ((fatal, mild), ""), "w1": ((), "E: no package")})

    reported = found(made)

    assert [(f.check, f.severity, f.where, f.kubeadm) for f in reported] == [
        ("SystemVerification", Severity.ERROR, "cp1", True),
        ("KubeadmPreflight", Severity.ERROR, "w1", False),
        ("ContainerRuntimeVersion", Severity.WARNING, "cp1", True),
    ]
    assert "--accept SystemVerification" in reported[0].remedy
    assert "E: no package" in reported[1].text
    assert only(situation(checks={"cp1": ((), "")}), "KubeadmPreflight").text.endswith("it was not asked")


def test_manifests_that_were_edited_come_with_their_diff():
    diff = "--- old\n+++ new\n@@ -1 +1 @@\n-    - --v=4\n-    - --audit-log-path=/x\n     - same"
    made = situation(edited={"cp1": diff})

    one = only(made, "EditedManifests")

    assert (one.severity, one.where, one.detail) == (Severity.ERROR, "cp1", diff)
    assert "2 lines differ" in one.text
    assert found(replace(made, upgrading=("w1",)), "EditedManifests") == []


def test_manifests_that_nobody_could_compare_are_no_manifests_in_order():
    made = situation(uncompared={"cp1": "no configuration"})

    failed = only(made, "ManifestsNotCompared")
    skipped = only(situation(plane(kubeadm=V137), worker(), edited={}), "ManifestsNotCompared")

    assert (failed.severity, failed.where) == (Severity.ERROR, "cp1")
    assert "no configuration" in failed.text
    assert failed.remedy.startswith("on cp1: kubeadm upgrade diff v1.36.3;")
    assert skipped.severity is Severity.WARNING
    assert "kubeadm is v1.37.2 there, its API server v1.36.3" in skipped.text
    assert found(replace(made, upgrading=("w1",)), "ManifestsNotCompared") == []
    assert found(situation(to=(), edited={}), "ManifestsNotCompared") == []


def test_certificates_that_could_not_be_looked_at_are_an_error():
    one = only(situation(plane(certificates=(), certificates_unread="no such file"), worker()), "CertificatesUnread")

    assert (one.severity, one.where) == (Severity.ERROR, "cp1")
    assert "no such file" in one.text


def test_without_renewal_certificates_that_end_soon_are_told():
    certificate = Certificate("apiserver", NOW + 5 * DAY, authority=False, external=False, missing=False)
    made = situation(plane(certificates=(certificate,)), worker(), renews=False)

    assert "this upgrade does not renew it" in only(made, "CertificateEnds").text


@pytest.mark.parametrize(
    ("days", "authority", "external", "missing", "upgrading", "check", "severity"),
    [
        (-3, False, False, False, True, "CertificateEnded", Severity.FORBIDDEN),
        (-3, False, True, False, True, "CertificateEnded", Severity.FORBIDDEN),
        (-3, False, False, True, True, "", None),
        (5, False, False, False, True, "", None),
        (5, False, False, False, False, "CertificateEnds", Severity.WARNING),
        (5, False, True, False, True, "CertificateEnds", Severity.WARNING),
        (31, False, True, False, True, "", None),
        (31, False, False, False, False, "", None),
        (-3, True, False, False, True, "AuthorityEnded", Severity.FORBIDDEN),
        (300, True, False, False, True, "AuthorityEnds", Severity.WARNING),
        (400, True, False, False, True, "", None),
    ],
)
def test_certificates_near_their_end(days, authority, external, missing, upgrading, check, severity):
    certificate = Certificate("x", NOW + days * DAY, authority, external, missing)
    made = situation(plane(certificates=(certificate,)), worker(), upgrading=("cp1", "w1") if upgrading else ("w1",))

    reported = [f for f in preflight.findings(made) if f.check.startswith(("Certificate", "Authority"))]

    assert [(f.check, f.severity) for f in reported] == ([(check, severity)] if check else [])
    assert all(f"{abs(days)} days" in f.text for f in reported)


@pytest.mark.parametrize(
    ("offsets", "told"),
    [
        ((), {}),
        ((0, 0.6, 1.0), {}),
        ((0, 0, 2.9), {}),
        ((0, 0, 3.1), {"h2": Severity.WARNING}),
        ((0, 0, -9), {"h2": Severity.WARNING}),
        ((0, 0, 11), {"h2": Severity.ERROR}),
        ((0, 0, -3600), {"h2": Severity.ERROR}),
        ((0, 100), {"h1": Severity.ERROR}),
        ((100, 100), {"cluster": Severity.ERROR}),
        ((-5, -5, -5), {"cluster": Severity.WARNING}),
        ((-5, -5, -105), {"cluster": Severity.WARNING, "h2": Severity.ERROR}),
    ],
)
def test_clocks_are_held_against_the_median_this_machines_own_too(offsets, told):
    hosts = [worker(f"h{i}") for i, _ in enumerate(offsets)] or [worker("h0")]
    clocks = {f"h{i}": float(off) for i, off in enumerate(offsets)}

    reported = found(situation(*hosts, etcd=EtcdFacts(), clocks=clocks), "ClockSkew")

    assert {f.where: f.severity for f in reported} == told


def test_a_clock_that_is_off_is_told_with_its_direction():
    ahead = only(situation(plane(), worker(), clocks={"cp1": 0.0, "w1": 60.0}), "ClockSkew")
    here = only(situation(plane(), worker(), clocks={"cp1": 20.0, "w1": 20.0}), "ClockSkew")

    assert ahead.text == "its clock is 60 s ahead of the others'"
    assert here.text == "the clock of the machine that this runs on is 20 s behind that of most hosts"


def test_images_that_are_not_on_a_control_plane_yet_are_named():
    here = plane("cp1", images=frozenset({"registry.k8s.io/etcd:3.7.0-0"}))
    wanted = {"cp1": ("registry.k8s.io/etcd:3.7.0-0", "registry.k8s.io/pause:3.10.2")}

    finding = only(situation(here, worker(), wanted=wanted), "ImagesToPull")
    assert finding.where == "cp1"
    assert "pause:3.10.2" in finding.text
    assert "etcd" not in finding.text
    assert found(situation(here, worker(), wanted={"cp1": wanted["cp1"][:1]}), "ImagesToPull") == []


def test_images_of_later_versions_are_said_not_to_be_looked_at():
    made = situation(*(at(h, V135) for h in (plane(), worker())), to=(V136, V137), wanted={"cp1": ("pause:9",)})

    assert only(made, "ImagesToPull").text.endswith("those of v1.37.2 are not looked at yet")


def test_images_that_cannot_be_listed_are_an_error():
    one = only(situation(unlisted={"cp1": "no configuration"}), "ImagesUnknown")

    assert (one.severity, one.where) == (Severity.ERROR, "cp1")
    assert "no configuration" in one.text


@pytest.mark.parametrize(("image", "told"), [("new:1", True), ("registry.k8s.io/pause:3.10.1", False)])
def test_images_to_pull_need_room_where_they_are_kept(image, told):
    host = plane(images=frozenset({"registry.k8s.io/pause:3.10.1"}))
    disks = {**host.disks, "/var/lib/containerd": Disk("/images", 10**12, 900 * MB)}
    made = situation(replace(host, disks=disks), worker(), wanted={"cp1": (image,)})

    reported = found(made, "DiskSpace")

    assert [f.text for f in reported] == (
        ["/images has 900 MB free of 1.0 GB needed: 1.0 GB for images"] if told else []
    )
