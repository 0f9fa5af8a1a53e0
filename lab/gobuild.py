"""Go programs, built from their published modules, whose versions and checksums are pinned under `lab/locks`.

`python -m lab.gobuild relock [NAME]` writes the pins of all programs, or of one, anew.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import cache, progress, versions
from lab.errors import LabError
from lab.processes import attempt, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOCKS = Path(__file__).parent / "locks"
_LOCKED = ("go.mod", "go.sum", "tools.go")
_KUBERNETES = "k8s.io/kubernetes"


@dataclass(frozen=True, slots=True)
class Program:
    """Commands that are built together.

    Attributes:
        name: Of the directory under `lab/locks`, before the version.
        version: Without a leading v.
        commands: Import path of the package -> file name of the binary.
        modules: The modules that the packages are in.
        link: Values that the linker sets: variable -> value.
    """

    name: str
    version: str
    commands: Mapping[str, str]
    modules: tuple[str, ...]
    link: Mapping[str, str]

    @property
    def locked(self) -> Path:
        """The directory with its pins."""
        return LOCKS / f"{self.name}-{self.version}"


def kubernetes(version: str) -> Path:
    """A directory with kubeadm, kubectl, kubelet and kube-{apiserver,controller-manager,proxy,scheduler}."""
    return _built(_kubernetes(version))


def etcd(version: str) -> Path:
    """A directory with etcd, etcdctl and etcdutl."""
    return _built(_etcd(version))


def coredns(version: str) -> Path:
    """A directory with coredns."""
    return _built(_coredns(version))


def kind() -> Path:
    """A directory with kind."""
    return _built(_kind())


def kwok() -> Path:
    """A directory with kwok."""
    return _built(_kwok())


def versitygw() -> Path:
    """A directory with versitygw, a server of S3's protocol over a directory."""
    return _built(_versitygw())


def module_files(module: str, version: str) -> Path:
    """The read-only directory of a module's files, fetched if need be and checked against its pinned checksum.

    Args:
        module: Path of a module that one of the programs is in, such as `sigs.k8s.io/kind`.
        version: Without a leading v.
    """
    program = next((each for each in programs() if each.version == version and module in each.modules), None)
    if program is None:
        raise LabError(f"the lab has no pins for {module} v{version}", remedy="add a program to lab/gobuild.py")
    _check_go(program)
    answer = json.loads(run(["go", "mod", "download", "-json", module], env=_environment(), cwd=program.locked))
    return Path(answer["Dir"])


def programs() -> tuple[Program, ...]:
    """All that the lab builds."""
    releases = versions.KUBERNETES.values()
    return (
        *(_kubernetes(release.version) for release in releases),
        *(_etcd(release.etcd) for release in releases),
        *(_coredns(release.coredns) for release in releases),
        _kind(),
        _kwok(),
        _versitygw(),
    )


def _kubernetes(version: str) -> Program:
    daemons = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
    commands = {f"{_KUBERNETES}/cmd/{name}": name for name in (*daemons, "kubeadm", "kubectl")}
    major, minor, _ = version.split(".")
    # Source: k8s.io/component-base and k8s.io/client-go, `version/base.go`: what a release build sets.
    link = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    component = {**link, "gitTreeState": "clean", "gitCommit": "lab", "buildDate": "2026-01-01T00:00:00Z"}
    variables = {f"k8s.io/component-base/version.{name}": value for name, value in component.items()}
    variables |= {f"k8s.io/client-go/pkg/version.{name}": value for name, value in link.items()}
    return Program("kubernetes", version, commands, (_KUBERNETES,), variables)


def _etcd(version: str) -> Program:
    modules = {"go.etcd.io/etcd/server/v3": "etcd"}
    modules |= {f"go.etcd.io/etcd/{name}/v3": name for name in ("etcdctl", "etcdutl")}
    return Program("etcd", version, modules, tuple(modules), {})


def _coredns(version: str) -> Program:
    module = "github.com/coredns/coredns"
    return Program("coredns", version, {module: "coredns"}, (module,), {})


def _kind() -> Program:
    module = "sigs.k8s.io/kind"
    return Program("kind", versions.KIND, {module: "kind"}, (module,), {})


def _kwok() -> Program:
    module = "sigs.k8s.io/kwok"
    link = {f"{module}/pkg/consts.Version": f"v{versions.KWOK}"}
    return Program("kwok", versions.KWOK, {f"{module}/cmd/kwok": "kwok"}, (module,), link)


def _versitygw() -> Program:
    module = "github.com/versity/versitygw"
    return Program("versitygw", versions.VERSITYGW, {f"{module}/cmd/versitygw": "versitygw"}, (module,), {})


def _built(program: Program) -> Path:
    """The directory of its binaries."""
    settings = (program.commands, program.link, platform.machine())
    inputs: list[str | Path] = [repr(settings), *(program.locked / name for name in _LOCKED)]
    return cache.artifact(f"{program.name}-{program.version}", inputs, lambda out: _build(program, out))


def _build(program: Program, out: Path) -> None:
    _check_go(program)
    flags = " ".join(("-s -w", *(f"-X {name}={value}" for name, value in program.link.items())))
    argv = ["nice", "go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags]
    run([*argv, "-o", f"{out}/", *program.commands], env=_environment(), cwd=program.locked)
    for package, binary in program.commands.items():
        (out / _file_name(package)).rename(out / binary)


def _file_name(package: str) -> str:
    """What `go build -o DIRECTORY/` calls a package's binary: a version at the end of the path does not count."""
    path = package.split("/")
    return path[-2] if path[-1].startswith("v") and path[-1][1:].isdigit() else path[-1]


def _environment() -> dict[str, str]:
    """Our environment, with what would change the outcome of a build taken out."""
    own = os.environ.get("GOFLAGS", "").split()
    flags = [flag for flag in own if flag.lstrip("-").partition("=")[0] not in ("mod", "modfile")]
    return {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": " ".join(flags)}


def _check_go(program: Program) -> None:
    """Raises LabError when there is no Go here that may build the program."""
    needs = next(
        line.split()[1] for line in (program.locked / "go.mod").read_text().splitlines() if line.startswith("go ")
    )
    remedy = f"install Go {needs} or later (https://go.dev/dl) and put its bin directory on PATH"
    if shutil.which("go") is None:
        raise LabError(
            f"{program.name} {program.version} is built from source, and there is no `go` here", remedy=remedy
        )
    # Reads nothing but go.mod: fails when this Go is older than that asks for and may not fetch a newer one.
    done = attempt(["go", "list", "-mod=readonly", "-m"], env=_environment(), cwd=program.locked)
    if done.returncode:
        said = done.stderr.strip().replace("\n", " ")
        raise LabError(f"{program.name} {program.version} cannot be built with this Go: {said}", remedy=remedy)


def relock(name: str = "") -> None:
    """Write the pins of all programs, or of those called `name`, anew from what their published modules require."""
    chosen = [each for each in programs() if name in ("", each.name, each.locked.name)]
    if not chosen:
        known = ", ".join(sorted({each.name for each in programs()}))
        raise LabError(f"the lab builds nothing called `{name}`", remedy=f"use one of: {known}")
    for program in chosen:
        with progress.step(f"pinning the modules of {program.locked.name}"):
            _relock(program)


def _relock(program: Program) -> None:
    imports = "".join(f'\t_ "{package}"\n' for package in program.commands)
    head = "//go:build tools\n\n// Package lab names the commands that the lab builds.\npackage lab\n"
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        (directory / "tools.go").write_text(f"{head}\nimport (\n{imports})\n")
        (directory / "go.mod").write_text(_requirements(program, directory))
        run(["go", "mod", "tidy"], env=_environment(), cwd=directory)
        program.locked.mkdir(parents=True, exist_ok=True)
        for name in _LOCKED:
            (program.locked / name).write_bytes((directory / name).read_bytes())


def _requirements(program: Program, directory: Path) -> str:
    """A go.mod from which `go mod tidy` finds the rest."""
    published = [_published(module, program.version, directory) for module in program.modules]
    newest = max((each["Go"] for each in published), key=lambda text: [int(part) for part in text.split(".")])
    lines = [f"module orchestrator-lab/{program.locked.name}", f"go {newest}"]
    lines += ["require (", *(f"{module} v{program.version}" for module in program.modules), ")"]
    if program.name == "kubernetes":
        lines += staged(published[0], program.version)
    return "\n".join(lines) + "\n"


def _published(module: str, version: str, directory: Path) -> dict[str, Any]:
    """The go.mod of a published module, as JSON."""
    answer = run(["go", "mod", "download", "-json", f"{module}@v{version}"], env=_environment(), cwd=directory)
    gomod: str = json.loads(answer)["GoMod"]
    parsed: dict[str, Any] = json.loads(run(["go", "mod", "edit", "-json", gomod], cwd=directory))
    return parsed


def staged(published: Mapping[str, Any], version: str) -> list[str]:
    """Lines for go.mod that make a program of k8s.io/kubernetes, which is not meant to be required by others.

    Its own go.mod takes the modules under `staging/` out of its own tree, as v0.0.0, by replacements that count only
    there. They are published as v0.MINOR.PATCH. Its requirements are repeated so that nothing is newer than in a
    release, and so are its `godebug` settings, which count only in a main module too.
    """
    staging = f"v0.{version.partition('.')[2]}"
    replaced = [each for each in published.get("Replace") or () if each["New"]["Path"].startswith("./staging/")]
    local = [each["Old"]["Path"] for each in replaced]
    lines = [f"godebug {each['Key']}={each['Value']}" for each in published.get("GoDebug") or ()]
    lines += ["replace (", *(f"{path} => {path} {staging}" for path in local), ")", "require ("]
    for each in published.get("Require") or ():
        lines.append(f"{each['Path']} {staging if each['Path'] in local else each['Version']}")
    return [*lines, ")"]


def main(argv: Sequence[str]) -> int:
    """The exit code of the command line."""
    commands: dict[tuple[str, int], Callable[[], None]] = {
        ("relock", 1): relock,
        ("relock", 2): lambda: relock(argv[1]),
    }
    command = commands.get((argv[0] if argv else "", len(argv)))
    if command is None:
        print("usage: python -m lab.gobuild relock [NAME]", file=sys.stderr)
        return 2
    try:
        command()
    except LabError as error:
        print(f"error: {error}\nremedy: {error.remedy}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
