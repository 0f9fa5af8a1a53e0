"""Kubernetes as .deb packages in a signed apt repository, laid out like pkgs.k8s.io."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lab import cache, gobuild, versions
from lab.processes import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGES = ("kubeadm", "kubectl", "kubelet")
KEYRING = "kubernetes-apt-keyring.gpg"
_KUBELET_UNIT = "/usr/lib/systemd/system/kubelet.service"
_KUBEADM_DROP_IN = "/usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"
_DEPENDS = {"kubelet": "iptables, conntrack, ethtool", "kubeadm": "kubelet"}


def minor(version: str) -> str:
    """`1.36` of `1.36.3`."""
    return ".".join(version.split(".")[:2])


def revision(version: str) -> str:
    """The package version of a Kubernetes version, as pkgs.k8s.io numbers its first build."""
    return f"{version}-1.1"


def signing_key() -> Path:
    """A directory with the key of the repositories: secret.asc, Release.key, and the keyring for nodes."""
    return cache.artifact("apt-key", [Path(__file__)], _make_key)


def packages(version: str) -> Path:
    """A directory with the .deb files of one version."""
    inputs: list[str | Path] = [version, gobuild.kubernetes(version).name, versions.KIND, Path(__file__)]
    return cache.artifact(f"debs-{version}", inputs, lambda out: _build_packages(version, out))


def repository(of_minor: str, offered: Sequence[str]) -> Path:
    """The repository directory of one minor with the given versions of it."""
    sources = [packages(version) for version in sorted(offered)]
    inputs: list[str | Path] = [of_minor, *(source.name for source in sources), signing_key().name, Path(__file__)]
    return cache.artifact(f"apt-{of_minor}", inputs, lambda out: _build_repository(sources, out))


def _node_files() -> Path:
    return gobuild.module_files("sigs.k8s.io/kind", versions.KIND) / "images/base/files"


def _build_packages(version: str, out: Path) -> None:
    binaries, units = gobuild.kubernetes(version), _node_files() / "etc/systemd/system"
    extra = {
        "kubelet": {_KUBELET_UNIT: units / "kubelet.service"},
        "kubeadm": {_KUBEADM_DROP_IN: units / "kubelet.service.d/10-kubeadm.conf"},
        "kubectl": {},
    }
    for name in PACKAGES:
        files = {f"/usr/bin/{name}": binaries / name, **extra[name]}
        with tempfile.TemporaryDirectory(dir=out) as tree:
            _lay_out(Path(tree), name, version, files)
            target = out / f"{name}_{revision(version)}_amd64.deb"
            run(["dpkg-deb", "-Zgzip", "-z1", "--root-owner-group", "--build", tree, str(target)])


def _lay_out(tree: Path, name: str, version: str, files: Mapping[str, Path]) -> None:
    """The tree that dpkg-deb packs."""
    tree.chmod(0o755)  # it becomes the mode of the package's root directory
    for path, source in files.items():
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(0o755 if "/bin/" in path else 0o644)
    fields = {
        "Package": name,
        "Version": revision(version),
        "Architecture": "amd64",
        "Maintainer": "Rehearsal lab <lab@example.invalid>",
        "Section": "admin",
        "Priority": "optional",
        **({"Depends": _DEPENDS[name]} if name in _DEPENDS else {}),
        "Description": f"{name} of Kubernetes {version}, built from source for the rehearsal lab",
    }
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))


def _build_repository(sources: Sequence[Path], out: Path) -> None:
    pool = out / "amd64"
    pool.mkdir()
    for source in sources:
        for deb in source.glob("*.deb"):
            (pool / deb.name).hardlink_to(deb)
    index = "\n".join(_stanza(deb, out) for deb in sorted(pool.iterdir())).encode()
    (out / "Packages").write_bytes(index)
    (out / "Packages.gz").write_bytes(gzip.compress(index, mtime=0))
    (out / "Release").write_text(release([out / "Packages", out / "Packages.gz"], datetime.now(UTC)))
    shutil.copyfile(signing_key() / "Release.key", out / "Release.key")
    _sign(out)


def _stanza(deb: Path, top: Path) -> str:
    """What `Packages` says of one file. Source: Debian repository format, "Packages" indices."""
    control = run(["dpkg-deb", "--field", str(deb)])
    content = deb.read_bytes()
    place = f"Filename: {deb.relative_to(top)}\nSize: {len(content)}\n"
    return f"{control}{place}SHA256: {hashlib.sha256(content).hexdigest()}\n"


def release(indices: Sequence[Path], now: datetime) -> str:
    """The text that is signed. Source: Debian repository format, "Release" files of a flat repository."""
    lines = [
        "Origin: rehearsal-lab",
        "Label: rehearsal-lab",
        f"Date: {now:%a, %d %b %Y %H:%M:%S} UTC",
        "Architectures: amd64",
        "SHA256:",
    ]
    for index in indices:
        content = index.read_bytes()
        lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {index.name}")
    return "\n".join(lines) + "\n"


def _make_key(out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-") as home:
        gpg = _gpg(home)
        batch = ["--pinentry-mode", "loopback", "--passphrase", ""]
        run([*gpg, *batch, "--quick-generate-key", "Rehearsal lab <lab@example.invalid>", "ed25519", "sign", "never"])
        secret = out / "secret.asc"
        secret.touch(mode=0o600)
        secret.write_text(run([*gpg, *batch, "--armor", "--export-secret-keys"]))
        (out / "Release.key").write_text(run([*gpg, "--armor", "--export"]))
        run([*gpg, "--output", str(out / KEYRING), "--export"])
        _end_agent(home)


def _sign(repository_dir: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="lab-") as home:
        gpg = _gpg(home)
        run([*gpg, "--import", str(signing_key() / "secret.asc")])
        for kind, name in (("--clearsign", "InRelease"), ("--detach-sign", "Release.gpg")):
            run([*gpg, "--armor", kind, "--output", str(repository_dir / name), str(repository_dir / "Release")])
        _end_agent(home)


def _gpg(home: str) -> list[str]:
    """A gpg command with a home of its own: short, for the agent's socket, and gone afterwards."""
    return ["gpg", "--homedir", home, "--batch", "--yes", "--quiet"]


def _end_agent(home: str) -> None:
    run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"])
