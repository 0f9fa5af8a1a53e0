"""The container images that a cluster runs, made of what was built, as archives that containerd imports."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import cache, gobuild, rootfs, versions
from lab.errors import LabError
from lab.layers import Image, closure, pack_files
from lab.processes import run

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = Path(__file__).parent / "files"
TEST_IMAGE = "docker.io/library/busybox:lab"
CONTENTS = "contents.json"
_DIRECTORIES = ("/etc", "/run", "/tmp", "/var")  # noqa: S108 - inside the image


def pause() -> Path:
    """The pause program, from our own source."""
    return cache.artifact("pause", [Path(__file__), FILES / "pause.go"], _build_pause) / "pause"


def of_version(version: str) -> Path:
    """A directory with one archive for each image that kubeadm of that version starts a cluster with."""
    release = versions.KUBERNETES[version]
    built = (gobuild.kubernetes(version), gobuild.etcd(release.etcd), gobuild.coredns(release.coredns))
    parts = (*built, pause().parent, rootfs.root())
    inputs: list[str | Path] = [version, *(part.name for part in parts), Path(__file__)]
    return cache.artifact(f"images-{version}", inputs, lambda out: _build_version(version, out))


def for_tests() -> Path:
    """A directory with the archive of the image for test pods: busybox, whose httpd serves /."""
    return cache.artifact("images-test", [rootfs.root().name, Path(__file__)], _build_test)


def _build_pause(out: Path) -> None:
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOTOOLCHAIN": "local"}
    argv = ["go", "build", "-ldflags=-s -w", "-o", str(out / "pause"), str(FILES / "pause.go")]
    run(argv, env=env, cwd=out)


def _build_version(version: str, out: Path) -> None:
    kubernetes = gobuild.kubernetes(version)
    # kubeadm itself says which images it wants: no list here that could go stale.
    listing = run([str(kubernetes / "kubeadm"), "config", "images", "list", "--kubernetes-version", f"v{version}"])
    for tag in listing.split():
        name = tag.rpartition("/")[2].partition(":")[0]
        files, config = _contents(name, version)
        _write(tag, files, config, out)


def _contents(name: str, version: str) -> tuple[Mapping[str, Path | str], dict[str, Any]]:
    """Files and configuration of one image of kubeadm's list."""
    kubernetes, release = gobuild.kubernetes(version), versions.KUBERNETES[version]
    match name:
        case "kube-apiserver" | "kube-controller-manager" | "kube-scheduler":
            return {f"/usr/local/bin/{name}": kubernetes / name}, {}
        case "kube-proxy":
            return {**_network_tools(), "/usr/local/bin/kube-proxy": kubernetes / name}, {}
        case "etcd":
            etcd = gobuild.etcd(release.etcd)
            return {f"/usr/local/bin/{tool}": etcd / tool for tool in ("etcd", "etcdctl", "etcdutl")}, {}
        case "coredns":
            return {"/coredns": gobuild.coredns(release.coredns) / "coredns"}, {"Entrypoint": ["/coredns"]}
        case "pause":
            return {"/pause": pause()}, {"Entrypoint": ["/pause"], "User": "65535:65535"}
        case _:
            raise LabError(
                f"kubeadm {version} wants an image `{name}` that the lab does not know",
                remedy="add it to lab/images.py",
            )


def _network_tools() -> dict[str, Path | str]:
    """What kube-proxy calls, out of the node's own file system."""
    root = rootfs.root() / "root"
    names = ("iptables*", "ip6tables*", "xtables*", "nft", "conntrack", "ipset", "modprobe")
    found = [path for name in names for path in (root / "usr/sbin").glob(name)]
    found += [
        path for name in names for path in (root / "etc/alternatives").glob(name) if not path.name.endswith(".gz")
    ]
    found += (root / "usr/lib/x86_64-linux-gnu/xtables").iterdir()
    loader = "/lib64/ld-linux-x86-64.so.2"
    return closure(root, [loader, "/bin/kmod", *(f"/{path.relative_to(root)}" for path in found)])


def _build_test(out: Path) -> None:
    busybox = rootfs.root() / "root/usr/bin/busybox"
    index = out / "index.html"
    index.write_text("busybox\n")
    files: dict[str, Path | str] = {"/bin/busybox": busybox, "/bin/sh": "busybox", "/www/index.html": index}
    command = ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"]
    _write(TEST_IMAGE, files, {"Entrypoint": command}, out)


def _write(tag: str, files: Mapping[str, Path | str], config: Mapping[str, Any], out: Path) -> None:
    """The archive of a one-layer image, and its entry in the directory's list of contents."""
    layer = pack_files(files, out, directories=_DIRECTORIES)
    archive = f"{tag.rpartition('/')[2].replace(':', '-')}.tar"
    with (out / archive).open("wb") as stream:
        Image(tag, (layer,), config).write(stream)
    layer.tar.unlink()
    contents = out / CONTENTS
    known = json.loads(contents.read_text()) if contents.exists() else []
    size = (out / archive).stat().st_size
    known.append({"tag": tag, "archive": archive, "size_bytes": size, "files": sorted(files)})
    contents.write_text(json.dumps(known, indent=1))
