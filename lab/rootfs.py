"""The file system of a node before Kubernetes: Debian 12 with systemd, containerd, sshd and apt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from lab import cache, host, layers
from lab.processes import run

PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "ca-certificates", "curl", "gpg", "jq", "less", "rsync"),
    *("containerd", "runc", "containernetworking-plugins", "iptables", "nftables", "ebtables", "ipset", "conntrack"),
    *("ethtool", "socat", "kmod", "iproute2", "iputils-ping", "mount", "procps", "util-linux", "libseccomp2"),
    *("python3-minimal", "busybox-static", "haproxy"),
)

# Units that would touch the machine below a container, or wait for hardware that is not there.
# Source: systemd's CONTAINER_INTERFACE, and the same removals in kind's own image.
_UNWANTED = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/basic.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "etc/systemd/system/*.wants/*",
    "etc/ssh/ssh_host_*",  # each node makes its own
    "etc/cni/net.d/*",
    "etc/apt/sources.list",  # nodes are offered the lab's packages and nothing else
    "var/lib/apt/lists/*",
    "var/cache/apt/archives/*.deb",
    "var/log/*.log",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/locale/*",
)


def root() -> Path:
    """The directory that holds `root/`, and `root/` packed as a layer."""
    return cache.artifact("rootfs", [host.SUITE, *PACKAGES, Path(__file__)], _build)


def _build(out: Path) -> None:
    tree = out / "root"
    argv = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", host.SUITE, str(tree)]
    run([*argv, host.debian_mirror()], env={**os.environ, **host.apt_proxy()})
    for pattern in _UNWANTED:
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    layers.pack(tree, out)
