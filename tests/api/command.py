"""The installed command, run as its users run it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

PROGRAM = str(Path(sys.executable).parent / "orchestrator")


@dataclass
class Command:
    """Runs the command with one kubeconfig and one state directory."""

    kubeconfig: Path
    home: Path
    extra: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen] = field(default_factory=list)

    @property
    def environ(self):
        path = os.environ["PATH"]
        state = self.home / "state"
        return {
            "PATH": path, "HOME": str(self.home), "XDG_STATE_HOME": str(state),
            "KUBECONFIG": str(self.kubeconfig), **self.extra,
        }  # fmt: skip

    @property
    def runs(self):
        return self.home / "state" / "orchestrator" / "runs"

    def __call__(self, *words, code=0, timeout_s=120):
        """What a command said, which has to end with `code`."""
        done = subprocess.run(
            [PROGRAM, *words], env=self.environ, capture_output=True, text=True, timeout=timeout_s, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == code, f"{words}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *words, code=0):
        """The document that a command printed."""
        return json.loads(self(*words, "-o", "json", code=code).stdout)

    def start(self, *words):
        """A command that goes on beside the test; its output is kept in files."""
        self.home.mkdir(exist_ok=True)
        with (self.home / "stdout").open("wb") as out, (self.home / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [PROGRAM, *words], env=self.environ, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self.started.append(process)
        return process

    def end(self):
        """Kill what still goes on beside."""
        for process in self.started:
            process.kill()
            process.wait()

    @property
    def stderr(self):
        """What the command that goes on beside has said so far."""
        return (self.home / "stderr").read_text()
