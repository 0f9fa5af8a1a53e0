"""Container images made of tar files."""

import hashlib
import io
import json
import tarfile

import pytest

from lab.errors import LabError
from lab.layers import Image, Layer, closure, pack_files, seal


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def packed(tmp_path, name, files, **fields):
    into = tmp_path / name
    into.mkdir()
    return pack_files(files, into, **fields)


def entries(layer):
    with tarfile.open(layer.tar) as archive:
        return {m.name: m for m in archive.getmembers()}


def test_a_layers_digest_is_that_of_its_tar_file_and_kept_beside_it(tmp_path, program):
    layer = packed(tmp_path, "a", {"/bin/program": program})

    assert layer.digest == hashlib.sha256(layer.tar.read_bytes()).hexdigest()
    assert Layer.of(tmp_path / "a") == layer


def test_a_layer_that_was_sealed_again_has_the_digest_of_what_is_in_it_now(tmp_path):
    (tmp_path / "layer.tar").write_bytes(b"one")
    before = seal(tmp_path)

    (tmp_path / "layer.tar").write_bytes(b"two")

    assert seal(tmp_path).digest != before.digest


def test_the_same_files_give_the_same_layer_in_whatever_order_and_whenever_they_were_made(tmp_path, program):
    other = tmp_path / "other"
    other.write_text("x")
    one = packed(tmp_path, "a", {"/a": program, "/b": other})
    other.touch()

    again = packed(tmp_path, "b", {"/b": other, "/a": program})

    assert one.digest == again.digest


def test_files_directories_and_links_have_the_modes_that_an_image_needs(tmp_path, program):
    text = tmp_path / "text"
    text.write_text("x")
    text.chmod(0o600)
    layer = packed(
        tmp_path, "a", {"/bin/program": program, "/etc/x": text, "/bin/sh": "program"}, directories=("/etc", "/tmp")
    )

    found = entries(layer)

    assert {name: m.mode for name, m in found.items()} == {
        "etc": 0o755,
        "tmp": 0o1777,
        "bin/program": 0o755,
        "bin/sh": 0o777,
        "etc/x": 0o644,
    }
    assert found["bin/sh"].linkname == "program"
    assert all((m.uid, m.gid, m.mtime) == (0, 0, 0) for m in found.values())


def test_an_image_is_what_docker_load_reads(tmp_path, program):
    layers = (packed(tmp_path, "a", {"/a": program}), packed(tmp_path, "b", {"/b": program}))
    out = io.BytesIO()

    Image("lab/x:1", layers, {"Entrypoint": ["/a"]}).write(out)

    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        read = {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    (manifest,) = json.loads(read["manifest.json"])
    config = json.loads(read[manifest["Config"]])
    digests = [hashlib.sha256(read[path]).hexdigest() for path in manifest["Layers"]]
    assert manifest["RepoTags"] == ["lab/x:1"]
    assert manifest["Config"] == hashlib.sha256(read[manifest["Config"]]).hexdigest() + ".json"
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in digests]
    assert digests == [layer.digest for layer in layers]
    assert config["config"]["Entrypoint"] == ["/a"]
    assert config["config"]["Env"][0].startswith("PATH=")


def test_an_image_may_set_a_path_of_its_own(tmp_path, program):
    out = io.BytesIO()

    Image("x", (packed(tmp_path, "a", {"/a": program}),), {"Env": ["PATH=/only"]}).write(out)

    assert b'"Env": ["PATH=/only"]' in out.getvalue()


@pytest.fixture
def root(tmp_path):
    """A root file system with a merged /usr and alternatives, as Debian has it."""
    root = tmp_path / "root"
    (root / "usr/sbin").mkdir(parents=True)
    (root / "etc/alternatives").mkdir(parents=True)
    (root / "sbin").symlink_to("usr/sbin")
    (root / "usr/sbin/iptables-nft").write_text("#!/bin/sh\n")
    (root / "usr/sbin/iptables").symlink_to("/etc/alternatives/iptables")
    (root / "etc/alternatives/iptables").symlink_to("/usr/sbin/iptables-nft")
    (root / "usr/sbin/iptables-save").symlink_to("iptables-nft")
    return root


def test_a_file_brings_the_links_on_the_way_to_it(root):
    found = closure(root, ["/sbin/iptables", "/usr/sbin/iptables-save"])

    assert found == {
        **{f"/{top}": f"usr/{top}" for top in ("bin", "sbin", "lib", "lib64")},
        "/usr/sbin/iptables": "/etc/alternatives/iptables",
        "/etc/alternatives/iptables": "/usr/sbin/iptables-nft",
        "/usr/sbin/iptables-nft": root / "usr/sbin/iptables-nft",
        "/usr/sbin/iptables-save": "iptables-nft",
    }


def test_a_file_that_is_not_there_is_named(root):
    with pytest.raises(LabError, match="/usr/sbin/nft is not in the node's file system"):
        closure(root, ["/sbin/nft"])
