"""Packages of Kubernetes and the apt repository that offers them, as far as no tool is needed."""

import gzip
import hashlib
from datetime import UTC, datetime

import pytest

from lab import aptsite, debs, network
from lab.errors import LabError
from lab.host import AptSource, debian_mirror, parse_deb822, parse_one_line


def test_versions_are_numbered_as_the_real_repositories_number_them():
    assert (debs.minor("1.36.3"), debs.revision("1.36.3")) == ("1.36", "1.36.3-1.1")


def test_a_release_lists_each_index_with_its_digest_and_size(tmp_path):
    content = b"Package: kubelet\n"
    (tmp_path / "Packages").write_bytes(content)
    (tmp_path / "Packages.gz").write_bytes(gzip.compress(content, mtime=0))

    lines = debs.release(
        [tmp_path / "Packages", tmp_path / "Packages.gz"], datetime(2026, 1, 5, 9, 8, 7, tzinfo=UTC)
    ).splitlines()

    assert "Date: Mon, 05 Jan 2026 09:08:07 UTC" in lines
    listed = [line.split() for line in lines[lines.index("SHA256:") + 1 :]]
    assert [(name, int(size)) for _, size, name in listed] == [
        ("Packages", 17),
        ("Packages.gz", (tmp_path / "Packages.gz").stat().st_size),
    ]
    assert all(digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for digest, _, name in listed)


def test_a_package_is_laid_out_with_programs_that_run_and_units_that_do_not(tmp_path):
    tree, source = tmp_path / "tree", tmp_path / "source"
    tree.mkdir(mode=0o700)
    source.write_text("x")
    source.chmod(0o600)

    debs._lay_out(tree, "kubelet", "1.36.3", {"/usr/bin/kubelet": source, "/usr/lib/systemd/k.service": source})

    modes = {p: (tree / p).stat().st_mode & 0o777 for p in (".", "usr/bin/kubelet", "usr/lib/systemd/k.service")}
    assert modes == {".": 0o755, "usr/bin/kubelet": 0o755, "usr/lib/systemd/k.service": 0o644}


def test_a_control_file_names_the_version_and_what_the_package_needs(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    debs._lay_out(tmp_path / "a", "kubeadm", "1.36.3", {})
    debs._lay_out(tmp_path / "b", "kubectl", "1.36.3", {})
    kubeadm, kubectl = ((tmp_path / each / "DEBIAN/control").read_text().splitlines() for each in "ab")

    assert {"Package: kubeadm", "Version: 1.36.3-1.1", "Depends: kubelet"} <= set(kubeadm)
    assert not any(line.startswith("Depends") for line in kubectl)


def test_a_source_line_leads_to_the_place_where_the_repository_is_served():
    line = aptsite.source_line("1.36")

    assert line.endswith(f" {aptsite.url('1.36')} /\n")
    assert f"http://{network.GATEWAY}:" in line
    assert line.count("core:/stable:/v1.36/deb/") == 1


def test_versions_are_offered_by_minor_each_once_and_in_order():
    assert dict(aptsite.by_minor(["1.37.2", "1.36.3", "1.36.1", "1.36.3"])) == {
        "1.36": ("1.36.1", "1.36.3"),
        "1.37": ("1.37.2",),
    }


def test_sources_in_one_line_style_are_read_without_comments_and_source_packages():
    text = """
# deb http://old/debian buster main
deb http://mirror/debian bookworm main contrib # ours
deb-src http://mirror/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://x/y bookworm-updates main
"""

    assert parse_one_line(text) == (
        AptSource("http://mirror/debian", "bookworm", ("main", "contrib")),
        AptSource("http://x/y", "bookworm-updates", ("main",), "/usr/share/keyrings/debian-archive-keyring.gpg"),
    )


def test_sources_in_stanzas_are_read_with_every_address_and_suite():
    text = """# made by the installer
Types: deb deb-src
URIs: http://a/debian
 http://b/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /k.gpg

Types: deb
Enabled: no
URIs: http://c/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://d/debian
Suites: bookworm
Components: main
"""

    assert [(s.uri, s.suite, s.signed_by) for s in parse_deb822(text)] == [
        ("http://a/debian", "bookworm", "/k.gpg"),
        ("http://a/debian", "bookworm-updates", "/k.gpg"),
        ("http://b/debian", "bookworm", "/k.gpg"),
        ("http://b/debian", "bookworm-updates", "/k.gpg"),
    ]


def sources(directory, text, name="sources.list"):
    (directory / "sources.list.d").mkdir(exist_ok=True)
    (directory / name).write_text(text)
    return directory


@pytest.mark.parametrize(
    ("text", "mirror"),
    [
        ("deb http://m/debian trixie main\ndeb http://n/debian bookworm main\n", "http://n/debian"),
        ("deb http://s/debian bookworm-security main\ndeb http://m/debian bookworm main\n", "http://m/debian"),
        ("deb http://docker/linux bookworm stable\ndeb http://m/debian/ trixie main\n", "http://m/debian/"),
    ],
)
def test_the_machines_own_mirror_is_used(text, mirror, tmp_path, monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_LAB_MIRROR", raising=False)

    assert debian_mirror(sources(tmp_path, text)) == mirror


def test_a_file_of_mirrors_stands_for_its_first(tmp_path, monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_LAB_MIRROR", raising=False)
    (tmp_path / "mirrors").write_text("http://first/debian\nhttp://second/debian\n")
    text = f"deb mirror+file:{tmp_path}/none bookworm main\ndeb mirror+file:{tmp_path}/mirrors bookworm main\n"

    assert debian_mirror(sources(tmp_path, text, "sources.list.d/x.list")) == "http://first/debian"


def test_a_machine_without_debians_archive_is_told_how_to_name_one(tmp_path, monkeypatch):
    monkeypatch.delenv("ORCHESTRATOR_LAB_MIRROR", raising=False)

    with pytest.raises(LabError, match="is Debian's archive") as caught:
        debian_mirror(sources(tmp_path, "deb http://docker/linux bookworm stable\n"))

    assert caught.value.remedy.startswith("ORCHESTRATOR_LAB_MIRROR=")


def test_a_mirror_that_was_chosen_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATOR_LAB_MIRROR", "http://chosen/debian")

    assert debian_mirror(sources(tmp_path, "deb http://m/debian bookworm main\n")) == "http://chosen/debian"
