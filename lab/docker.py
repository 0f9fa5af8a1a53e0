"""The Docker daemon that the nodes run on: the machine's own where it will do, else one of the lab's."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from lab import cache, host, images, progress, state
from lab.errors import LabError
from lab.layers import Image, Layer, pack_files
from lab.processes import TIED_TO_US, Daemon, attempt, run, wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL = "orchestrator-lab.cluster"
_START_S = 30
_FREEZER = Path("/sys/fs/cgroup/freezer")
_LONGEST_DIRECTORY = 70  # below it lie sockets, whose paths end at 107 characters
_SYSTEM_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Docker:
    """A client of one daemon; without a socket, of the one that the environment names."""

    socket: Path | None = None

    def env(self) -> dict[str, str]:
        """The environment in which docker and kind speak to this daemon."""
        return {**os.environ, **({"DOCKER_HOST": f"unix://{self.socket}"} if self.socket else {})}

    def run(self, *args: str, stdin: str | None = None) -> str:
        """The output of a docker command."""
        return run(["docker", *args], stdin=stdin, env=self.env())

    def succeeds(self, *args: str) -> bool:
        """Whether a docker command ends well."""
        return attempt(["docker", *args], env=self.env()).returncode == 0

    def containers(self, cluster: str) -> dict[str, str]:
        """The lab's containers of one cluster: name -> id, stopped ones too."""
        told = self.run("ps", "--all", "--no-trunc", f"--filter=label={LABEL}={cluster}", "--format={{.Names}} {{.ID}}")
        return dict(line.split() for line in told.splitlines())

    def kill(self, *containers: str) -> None:
        """End containers, given by their full ids, as a cut of the power does; those that do not run are fine.

        Source: cgroup v1 freezer: a frozen process takes no SIGKILL. The runc inside a node freezes a pod's cgroup for
        a moment while it sets up its devices; a node that is killed just then would never end.
        """
        attempt(["docker", "kill", *containers], env=self.env())
        for container in containers:
            for frozen in _FREEZER.glob(f"**/{container}/**/freezer.state"):
                with contextlib.suppress(OSError):  # it is gone already
                    frozen.write_text("THAWED")

    def inspect(self, *names: str) -> list[Mapping[str, object]]:
        """What the daemon knows of some containers."""
        found: list[Mapping[str, object]] = json.loads(self.run("inspect", "--type=container", *names))
        return found

    def load(self, image: Image) -> str:
        """The tag of an image, brought into the daemon where it is not yet."""
        if self.succeeds("image", "inspect", image.tag):
            return image.tag
        with progress.step(f"loading {image.tag} into Docker"), tempfile.TemporaryFile() as said:
            with subprocess.Popen(
                [*TIED_TO_US, "docker", "load", "--quiet"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env=self.env(),
            ) as loader:
                image.write(cast("IO[bytes]", loader.stdin))
            if loader.returncode:
                said.seek(0)
                raise LabError(
                    f"docker load of {image.tag} failed: {said.read().decode(errors='replace').strip()}",
                    remedy="df -h: an image needs 2 GB of free space",
                )
        return image.tag


def ensure() -> Docker:
    """A daemon that starts privileged containers; one of the lab's is installed and started where there is none."""
    found = current()
    if found is not None:
        return found
    if not _data_root().exists() and _starts_privileged(Docker()):
        return Docker()
    host.ensure_tools(host.DOCKER_TOOLS)
    _start_own()
    return _own()


def current() -> Docker | None:
    """The daemon in use, if there is one; nothing is started."""
    if _daemon().pid() is not None:
        return _own()
    if _data_root().exists() or not Docker().succeeds("info"):
        return None
    return Docker()


def stop() -> None:
    """End the lab's own daemon, if it runs."""
    if _daemon().pid() is not None:
        with progress.step("stopping the lab's Docker daemon"):
            _daemon().stop()
    _unmount_below(_directory())


def _starts_privileged(docker: Docker) -> bool:
    """Whether a daemon answers and starts a privileged container, tried with an image of the lab's own."""
    if not docker.succeeds("info"):
        return False
    probe = cache.artifact("probe", [images.pause().parent.name], _pack_probe)
    tag = docker.load(Image("orchestrator-lab/probe:1", (Layer.of(probe),), {"Entrypoint": ["/pause"]}))
    return docker.succeeds("run", "--rm", "--privileged", "--network=none", tag, "-v")


def _pack_probe(out: Path) -> None:
    pack_files({"/pause": images.pause()}, out)


def _start_own() -> None:
    if _daemon().pid() is not None:
        return
    directory = _directory()
    if len(str(directory)) > _LONGEST_DIRECTORY:
        raise LabError(
            f"{directory} is too long a path for Docker's sockets",
            remedy="XDG_CACHE_HOME=/var/cache python -m lab up",
        )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "docker.pid").unlink(missing_ok=True)
    argv = [
        "dockerd",
        f"--data-root={_data_root()}",
        f"--exec-root={directory}/exec",
        f"--pidfile={directory}/docker.pid",
    ]
    argv += [f"--host=unix://{directory}/docker.sock", "--log-level=warn"]
    # No bridge of its own: it could be another daemon's docker0. Each container of the lab names its network.
    argv += ["--bridge=none", *_runtime_options(directory)]
    env = {**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_DIRECTORIES}"}
    with progress.step("starting a Docker daemon of the lab's own"):
        _daemon().start(argv, env)
        wait_for(
            "the Docker daemon to answer",
            lambda: _daemon().pid() is None or _own().succeeds("version"),
            timeout_s=_START_S,
            remedy=f"see {_daemon().log}",
        )
        if _daemon().pid() is None:
            raise LabError(f"dockerd ended:\n{_daemon().last_words()}", remedy=f"see {_daemon().log}")


def _runtime_options(directory: Path) -> list[str]:
    """Options for a machine that lacks capabilities, where runc must be asked for less."""
    known = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    if host.capabilities() >= frozenset(range(known + 1)):
        return []
    python = Path("/usr/bin/python3")
    interpreter = python if python.exists() else Path(sys.executable).resolve()
    runtime = directory / "runc-within-limits"
    text = (images.FILES / runtime.name).read_text()
    runtime.write_text(text.replace("#!/usr/bin/env python3", f"#!{interpreter}", 1))
    runtime.chmod(0o755)
    return [f"--add-runtime=within-limits={runtime}", "--default-runtime=within-limits"]


def _unmount_below(directory: Path) -> None:
    """Take away mounts that lie below a directory, innermost first."""
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed([path for path in mounted if path.startswith(f"{directory}/")]):
        run(["umount", path])


def _own() -> Docker:
    return Docker(_directory() / "docker.sock")


def _daemon() -> Daemon:
    return Daemon("dockerd", state.run_directory() / "dockerd.pid", state.run_directory() / "dockerd.log")


def _directory() -> Path:
    return state.run_directory() / "docker"


def _data_root() -> Path:
    return _directory() / "data"
