"""A server of S3's protocol on loopback, over a directory: what object stores are tested against."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import gobuild
from lab.loopback import ADDRESS, free_port, until_listens
from lab.processes import TIED_TO_US, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGION = "lab-1"
START_S = 20


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, or ran.

    Attributes:
        directory: All of it.
        port: Where it listens.
        access, secret: What it lets in.
        certificate: Of its TLS, PEM; None when it speaks without.
    """

    directory: Path
    port: int
    access: str
    secret: str
    certificate: Path | None = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"{'https' if self.certificate else 'http'}://{ADDRESS}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that its clients need."""
        return {
            "AWS_ACCESS_KEY_ID": self.access,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
        }

    def make_bucket(self, name: str) -> Path:
        """The directory whose files are the objects of a new bucket."""
        made = self.directory / "buckets" / name
        made.mkdir()
        return made

    def half_written(self) -> list[Path]:
        """The parts of uploads that were neither completed nor aborted."""
        buckets = self.directory / "buckets"
        return sorted(path for path in buckets.glob("*/.sgwtmp/multipart/**/*") if path.is_file())

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program = gobuild.versitygw() / "versitygw"
        tls = ["--cert", str(self.certificate), "--key", str(_key(self.certificate))] if self.certificate else []
        environment = {"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": self.access, "ROOT_SECRET_KEY": self.secret}
        listen = ["--port", f"{ADDRESS}:{self.port}", "--region", REGION, "--quiet", *tls]
        argv = [str(program), *listen, "posix", str(self.directory / "buckets")]
        self._daemon.start([*TIED_TO_US, *argv], env=environment)
        until_listens("the S3 server", self._daemon, self.port, timeout_s=START_S)

    def stop(self) -> None:
        """End it."""
        self._daemon.stop()

    @property
    def _daemon(self) -> Daemon:
        return Daemon("versitygw", self.directory / "versitygw.pid", self.directory / "versitygw.log")


@contextmanager
def running(directory: Path, *, tls: bool = False) -> Iterator[Server]:
    """A server in a new directory for as long as the context lasts; it ends with this process, however that ends."""
    (directory / "buckets").mkdir(parents=True, mode=0o700)
    certificate = _certified(directory) if tls else None
    made = Server(directory, free_port(), "lab-access", "lab-secret-of-the-lab", certificate)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def _certified(directory: Path) -> Path:
    """A certificate that nobody trusts who was not given it."""
    certificate = directory / "tls.crt"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=lab", "-addext", f"subjectAltName=IP:{ADDRESS}", "-addext", "basicConstraints=CA:FALSE"]
    out = ["-days", "2", "-keyout", str(_key(certificate)), "-out", str(certificate)]
    subprocess.run([*words, *names, *out], check=True, capture_output=True)
    return certificate


def _key(certificate: Path) -> Path:
    return certificate.with_suffix(".key")
