"""The image that kind starts nodes from: Debian, kind's node files, Kubernetes installed, images at hand."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lab import cache, debs, gobuild, images, layers, rootfs, versions
from lab.layers import Image, Layer

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = "orchestrator-lab"
FILES = images.FILES
_NODE_FILES = FILES / "node"

# Runs as root inside the node's file system; kind's files, our own and the packages lie below /run/in.
_INSTALL = """
kind=/run/in/kind own=/run/in/own etc=/etc/systemd/system
mkdir -p /kind/bin /kind/manifests /etc/containerd /etc/kubernetes/manifests /etc/apt/keyrings /etc/lab /root/.ssh
chmod 700 /root/.ssh
install -m 755 $kind/usr/local/bin/entrypoint $own/node-entrypoint /usr/local/bin/
install -m 755 $kind/kind/bin/* /kind/bin/
install -m 644 $kind/etc/sysctl.d/* /etc/sysctl.d/
install -m 644 $kind/etc/crictl.yaml /etc/
install -m 644 $kind/etc/default/kubelet /etc/default/
install -m 644 $kind/etc/systemd/system/kubelet.service $kind/etc/systemd/system/kubelet.slice $etc/
install -m 644 $kind/etc/systemd/system/undo-mount-hacks.service $own/containerd.service $own/pod-routes.service $etc/
install -D -m 644 -t $etc/kubelet.service.d $kind/etc/systemd/system/kubelet.service.d/*
install -D -m 644 -t $etc/ssh.service.d $own/ssh-host-keys.conf
install -D -m 644 -t /etc/systemd/system.conf.d $own/stop-soon.conf
sed 's/PAUSE/{pause}/' $own/containerd.toml > /etc/containerd/config.toml
echo ReadKMsg=no >> /etc/systemd/journald.conf
mkdir -p /opt/cni
ln -sT /usr/lib/cni /opt/cni/bin
dpkg --install /run/in/debs/*.deb
apt-mark hold {packages}
systemctl enable containerd kubelet pod-routes ssh undo-mount-hacks
systemctl mask systemd-binfmt.service haproxy.service
install -m 644 /run/in/key/{keyring} /etc/apt/keyrings/
echo v{version} > /kind/version
"""

_IMPORT = """
containerd --log-level error & server=$!
tries=0
until ctr version > /dev/null 2>&1; do
  tries=$((tries + 1)); [ $tries -lt 150 ] || exit 1
  sleep 0.1
done
for archive in /run/in/*/*.tar; do ctr --namespace k8s.io images import --no-unpack "$archive"; done
kill $server && wait $server || true
"""


def node(version: str, offered: Sequence[str]) -> Image:
    """The node image of one version, with the container images of all offered versions inside."""
    config: dict[str, object] = {
        "Entrypoint": ["/usr/local/bin/node-entrypoint", "/sbin/init"],
        "StopSignal": "SIGRTMIN+3",
        "Env": [f"PATH={layers.PATH}", "container=docker"],
    }
    parts = (Layer.of(rootfs.root()), Layer.of(_store(offered)), Layer.of(_installed(version)))
    return _tagged(f"node-{version}", parts, config)


def load_balancer() -> Image:
    """The image that stands in for kind's load balancer."""
    envoy = cache.artifact(
        "load-balancer", [Path(__file__), FILES / "envoy"], lambda out: _pack_one("/usr/local/bin/envoy", "envoy", out)
    )
    return _tagged("load-balancer", (Layer.of(rootfs.root()), Layer.of(envoy)), {})


def _tagged(name: str, parts: tuple[Layer, ...], config: dict[str, object]) -> Image:
    """An image whose tag changes with what is in it."""
    identity = "\n".join((*(part.digest for part in parts), repr(sorted(config.items()))))
    return Image(f"{REPOSITORY}/{name}:{hashlib.sha256(identity.encode()).hexdigest()[:12]}", parts, config)


def _pack_one(path: str, name: str, out: Path) -> None:
    source = out / name
    source.write_bytes((FILES / name).read_bytes())
    source.chmod(0o755)
    layers.pack_files({path: source}, out)


def _installed(version: str) -> Path:
    """A directory with the layer of Kubernetes, installed and held."""
    own = sorted(_NODE_FILES.iterdir())
    inputs: list[str | Path] = [
        rootfs.root().name,
        debs.packages(version).name,
        debs.signing_key().name,
        versions.KIND,
        _INSTALL,
        *own,
    ]
    return cache.artifact(f"node-{version}", inputs, lambda out: _install(version, out))


def _install(version: str, out: Path) -> None:
    release = versions.KUBERNETES[version]
    script = _INSTALL.format(
        pause=release.pause, packages=" ".join(debs.PACKAGES), keyring=debs.KEYRING, version=version
    )
    binds = {
        "/run/in/kind": gobuild.module_files("sigs.k8s.io/kind", versions.KIND) / "images/base/files",
        "/run/in/own": _NODE_FILES,
        "/run/in/debs": debs.packages(version),
        "/run/in/key": debs.signing_key(),
    }
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        changed = layers.in_root(rootfs.root() / "root", script, scratch=Path(scratch), binds=binds)
        layers.pack(changed, out)


def _store(offered: Sequence[str]) -> Path:
    """A directory with the layer of containerd's content store, filled with the images of all offered versions."""
    sources = [images.of_version(version) for version in sorted(offered)] + [images.for_tests()]
    inputs = [rootfs.root().name, *(source.name for source in sources), _IMPORT]
    return cache.artifact("image-store", inputs, lambda out: _import(sources, out))


def _import(sources: Sequence[Path], out: Path) -> None:
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        store = Path(scratch) / "store"
        keep = Path(scratch) / "keep"
        store.mkdir()
        keep.mkdir(mode=0o711)
        binds = {"/var/lib/containerd": store, **{f"/run/in/{place}": path for place, path in enumerate(sources)}}
        layers.in_root(rootfs.root() / "root", _IMPORT, scratch=Path(scratch) / "root", binds=binds)
        for plugin in ("io.containerd.content.v1.content", "io.containerd.metadata.v1.bolt"):
            (store / plugin).rename(keep / plugin)
        layers.pack(keep, out, prefix="./var/lib/containerd")
