"""A host for scripts of an upgrade: programs that only note what they are told. What the real ones do the lab shows."""

import os
import subprocess

from orchestrator.hosts.commands import wrapped

# What apt-get would have to fetch.
NOT_FETCHED = """case "$*" in *" --print-uris "*) echo "'http://a/kubelet.deb' kubelet.deb 9"; exit ;; esac
"""


class ScriptHost:
    """A directory of programs, which is all that a script finds before the system's own.

    Attributes:
        fails: Program, with its first words -> what it ends with.
    """

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "log"
        self.log.touch()
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in ("apt-get", "apt-mark", "dpkg", "systemctl", "kubeadm", "dpkg-deb", "ctr", "apt-cache"):
            self.program(name)

        self.program("apt-get", NOT_FETCHED)

    def program(self, name, then=""):
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.log}\n{then}\n')
        path.chmod(0o755)

    def run(self, script, *words, timeout_s=30.0):
        argv = wrapped(["sh", "-c", script, "sh", *words], timeout_s=timeout_s)
        path = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.run(argv, env={**os.environ, "PATH": path}, capture_output=True, check=False).returncode

    def did(self, *programs):
        """What the programs were told, without their options; in order."""
        lines = [line.split() for line in self.log.read_text().splitlines()]
        found = [[word for word in line if not word.startswith("-") and "::" not in word] for line in lines]
        return [" ".join(line) for line in found if not programs or line[0] in programs]
