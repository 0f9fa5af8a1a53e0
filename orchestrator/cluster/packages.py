"""What a Debian host tells of its Kubernetes packages, and where it takes them from. Pure.

Source of all forms: dpkg-query 1.21 and apt 2.6 as seen on Debian 12, and https://pkgs.k8s.io: one repository a minor
version, whose path holds it as `/v1.36/`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster.versions import Version, parse
from orchestrator.errors import FactUnreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Packages that an upgrade of Kubernetes moves, in the order in which it does.
KUBERNETES = ("kubeadm", "kubelet", "kubectl")

#: Names of packages follow it. A package that is not known makes its exit code 1; the others are printed all the same.
INSTALLED = ("dpkg-query", "-W", "-f=${Package}\\t${Version}\\t${Status}\\n")
#: Names of packages follow it. Empty with exit code 0 where no index was ever fetched.
OFFERED = ("apt-cache", "madison")
#: Prints what dpkg left half done; nothing when all is well.
UNFINISHED = ("dpkg", "--audit")

_MINOR_IN_URL = re.compile(r"(?<=/v)(\d+)\.(\d+)(?=/)")
_REPOSITORY = re.compile(r"https?://\S+/core:/\w+:/v\d+\.\d+/deb/?")


@dataclass(frozen=True, slots=True)
class Package:
    """An installed package.

    Attributes:
        revision: The package's version, such as `1.36.3-1.1`.
        held: apt does not change it unless it is told to.
        whole: It is installed and configured, not half so.
    """

    name: str
    revision: str
    held: bool
    whole: bool

    @property
    def version(self) -> Version | None:
        """The version of what is in it; None where that is no version of Kubernetes."""
        return parse(self.revision)


@dataclass(frozen=True, slots=True)
class Source:
    """A file that names a repository of Kubernetes packages.

    Attributes:
        path: The file.
        text: All of it.
        minors: The minors whose repositories it names, as `1.36`.
    """

    path: str
    text: str
    minors: tuple[str, ...]


def parse_installed(stdout: str) -> Mapping[str, Package]:
    """Name -> package, out of the answer of `INSTALLED`.

    Raises:
        FactUnreadable: A line is not of that form.
    """
    return {package.name: package for package in map(_installed, stdout.splitlines())}


def _installed(line: str) -> Package:
    match line.split("\t"):
        case [name, revision, state] if len(state.split()) == 3:
            wanted, error, status = state.split()
            return Package(name, revision, held=wanted == "hold", whole=(error, status) == ("ok", "installed"))
    raise FactUnreadable(f"dpkg-query printed {line[:80]!r}", remedy="see `dpkg --audit` on that host")


def parse_offered(stdout: str, package: str = KUBERNETES[0]) -> Mapping[Version, str]:
    """Version -> the newest revision of `package`, out of the answer of `OFFERED`; empty without an index.

    Raises:
        FactUnreadable: A line is not of that form.
    """
    found: dict[Version, str] = {}
    for line in stdout.splitlines():
        fields = [field.strip() for field in line.split("|")]
        version = parse(fields[1]) if len(fields) == 3 else None
        if version is None:
            raise FactUnreadable(f"apt-cache madison printed {line[:80]!r}", remedy="run it by hand on that host")
        if fields[0] == package:
            found.setdefault(version, fields[1])  # it lists the newest first
    return found


def source(path: str, text: str) -> Source | None:
    """The repositories of Kubernetes that an apt source file names; None when it names none.

    Both forms are understood: one line each, and deb822. What stands behind a `#` does not count.
    """
    live = "\n".join(line.partition("#")[0] for line in text.splitlines())
    urls = _REPOSITORY.findall(live)
    if not urls:
        return None
    minors = dict.fromkeys(".".join(m) for url in urls for m in _MINOR_IN_URL.findall(url))
    return Source(path, text, tuple(minors))


def moved(found: Source, minor: str) -> str:
    """The text of a source file with its repositories of Kubernetes moved to another minor, and nothing else changed.

    Source: Kubernetes documentation, "Changing The Kubernetes Package Repository": only the minor in the URL changes.
    """
    return "".join(_line_moved(line, minor) for line in found.text.splitlines(keepends=True))


def _line_moved(line: str, minor: str) -> str:
    live, mark, comment = line.partition("#")
    return _REPOSITORY.sub(lambda match: _MINOR_IN_URL.sub(minor, match[0]), live) + mark + comment


def revision_for(offered: Mapping[Version, str], version: Version, *, host: str) -> str:
    """The package revision that installs `version`.

    Raises:
        FactUnreadable: The host is not offered that version.
    """
    if version in offered:
        return offered[version]
    known = ", ".join(map(str, sorted(offered))) or "nothing"
    raise FactUnreadable(
        f"{host} is not offered Kubernetes {version}, only {known}",
        remedy=f"see its apt sources, and `apt-get update` on {host}",
    )
