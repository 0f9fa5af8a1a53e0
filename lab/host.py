"""What the machine must have, and gets from its own apt sources when it lacks it."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lab import progress
from lab.errors import LabError
from lab.processes import attempt, run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# command -> Debian package that brings it
_TOOLS = {
    "debootstrap": "debootstrap",
    "dpkg-deb": "dpkg",
    "gpg": "gnupg",
    "iptables": "iptables",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
    "tar": "tar",
}
DOCKER_TOOLS = {"dockerd": "docker.io", "docker": "docker.io"}
# Each node runs systemd, containerd and a kubelet, which watch files for one and the same user: the kernel's defaults
# are used up by about five nodes. Source: kind's "Known issues", "Pod errors due to too many open files".
_LIMITS = {"fs/inotify/max_user_instances": 4096, "fs/inotify/max_user_watches": 1048576}
SUITE = "bookworm"
MIRROR_VARIABLE = "ORCHESTRATOR_LAB_MIRROR"


def check_machine() -> None:
    """Raises LabError where the lab cannot work at all."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise LabError(
            f"the lab runs on Linux/amd64 only, this is {platform.system()}/{platform.machine()}",
            remedy="use a Debian 12 machine, or point the demo at a cluster that you have",
        )
    if os.geteuid() != 0:
        raise LabError(
            "the lab builds file systems and starts containers, which needs root", remedy="run it again with sudo"
        )


def ensure_tools(tools: dict[str, str] | None = None) -> None:
    """Install what is missing of the tools of the lab."""
    wanted = _TOOLS if tools is None else tools
    missing = sorted({package for tool, package in wanted.items() if not shutil.which(tool, path=_SEARCHED)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise LabError(
            f"missing: {', '.join(missing)}, and there is no apt-get to install them",
            remedy=f"install {' '.join(missing)} with your package manager",
        )
    with progress.step(f"apt-get install {' '.join(missing)}"):
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if attempt(install, env=env).returncode:  # the package lists may be empty or old: fetch them and say why
            run(["apt-get", "update", "-q"], env=env)
            run(install, env=env)


_SEARCHED = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def raise_limits(before: Path) -> None:
    """Raise the machine's limits to what several clusters need, and write down in `before` what they were."""
    proc = Path("/proc/sys")
    low = {name: found for name in _LIMITS if (found := int((proc / name).read_text())) < _LIMITS[name]}
    if not low:
        return
    if not before.exists():
        before.write_text(json.dumps(low))
    for name, found in low.items():
        setting = f"{name.replace('/', '.')}={_LIMITS[name]}"
        try:
            (proc / name).write_text(str(_LIMITS[name]))
        except OSError as error:
            raise LabError(
                f"{name} is {found}, too low for the nodes: {error}", remedy=f"sysctl -w {setting}"
            ) from error
        progress.say(f"sysctl {setting} until the last cluster is gone (it was {found})")


def restore_limits(before: Path) -> None:
    """Put back what `raise_limits` found."""
    if before.exists():
        for name, found in json.loads(before.read_text()).items():
            (Path("/proc/sys") / name).write_text(str(found))
        before.unlink()


def capabilities() -> frozenset[int]:
    """The numbers of the capabilities that processes here may ever have."""
    status = Path("/proc/self/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapBnd")), 16)
    return frozenset(bit for bit in range(64) if mask >> bit & 1)


@dataclass(frozen=True, slots=True)
class AptSource:
    """One place that apt fetches packages from."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""

    @property
    def debian(self) -> bool:
        """Debian's own archive, judged by its keyring or its path."""
        own_path = urlsplit(self.uri).path.rstrip("/").endswith("/debian")
        return "main" in self.components and ("debian-archive-keyring" in self.signed_by or own_path)


def debian_mirror(etc_apt: Path = Path("/etc/apt")) -> str:
    """The address of the Debian archive that this machine uses.

    Raises:
        LabError: none of its apt sources is one.
    """
    chosen = os.environ.get(MIRROR_VARIABLE)
    if chosen:
        return chosen
    sources = [source for source in _all_sources(etc_apt) if source.debian and not source.suite.endswith("-security")]
    if not sources:
        raise LabError(
            f"no apt source in {etc_apt} is Debian's archive, so nodes cannot be built from it",
            remedy=f"{MIRROR_VARIABLE}=http://YOUR-MIRROR/debian python -m lab up",
        )
    return next((source for source in sources if source.suite == SUITE), sources[0]).uri


def _all_sources(etc_apt: Path) -> Iterator[AptSource]:
    lists = [etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        if path.exists():
            yield from _resolved(parse_one_line(path.read_text()))
    for path in sorted((etc_apt / "sources.list.d").glob("*.sources")):
        yield from _resolved(parse_deb822(path.read_text()))


def _resolved(sources: Iterable[AptSource]) -> Iterator[AptSource]:
    """Sources that name a file of mirrors, with the first mirror in it."""
    for source in sources:
        if not source.uri.startswith("mirror+file:"):
            yield source
            continue
        mirrors = Path(source.uri.removeprefix("mirror+file:"))
        lines = mirrors.read_text().split() if mirrors.exists() else []
        if lines:
            yield AptSource(lines[0], source.suite, source.components, source.signed_by)


def parse_one_line(text: str) -> tuple[AptSource, ...]:
    """Binary sources of a sources.list, in order.

    Source: sources.list(5), one-line style: `deb [ option=value ... ] uri suite component...`.
    """
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>[^#]+)", line)
        if not match:
            continue
        options = dict(word.partition("=")[::2] for word in (match["options"] or "").split())
        uri, suite, *components = match["rest"].split()
        found.append(AptSource(uri, suite, tuple(components), options.get("signed-by", "")))
    return tuple(found)


def parse_deb822(text: str) -> tuple[AptSource, ...]:
    """Binary sources of a .sources file, in order, one for each address and suite.

    Source: sources.list(5), deb822 style: stanzas parted by empty lines, `#` comments, folded values.
    """
    found: list[AptSource] = []
    bare = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", bare):
        fields = {
            key.strip().lower(): value.strip()
            for key, _, value in (line.partition(":") for line in re.sub(r"\n[ \t]+", " ", stanza).splitlines())
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        components = tuple(fields.get("components", "").split())
        found.extend(
            AptSource(uri, suite, components, fields.get("signed-by", ""))
            for uri in fields.get("uris", "").split()
            for suite in fields.get("suites", "").split()
        )
    return tuple(found)


def apt_proxy() -> dict[str, str]:
    """The proxy that apt is set to use here, as environment for tools that do not read its settings."""
    said = attempt(["apt-config", "shell", "PROXY", "Acquire::http::Proxy"]).stdout
    match = re.search(r"PROXY='([^']+)'", said)
    return {"http_proxy": match[1]} if match and match[1] != "DIRECT" else {}
