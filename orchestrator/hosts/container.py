"""A node that is a container on this machine: kind and minikube."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import HostUnreachable
from orchestrator.hosts import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from orchestrator.engine.host import Stream, T
    from orchestrator.hosts.output import Output

# As sh's child in there, so that a signal's end arrives as 128 and more whatever the runtime makes of it.
_STATUS = ("sh", "-c", '"$@"; exit $?', "sh")
#: How docker, podman and nerdctl begin when they did not get as far as the command.
_OWN_COMPLAINTS = (
    "error response from daemon",
    "error: no such container",
    "cannot connect to the docker daemon",
    "error during connect",
    "permission denied while trying to connect",
    "error: no container with name",
    "error: can only create exec sessions on running containers",
    'level=fatal msg="no such container',
)


class ContainerTransport:
    """Runs commands by `docker exec`.

    Args:
        container: Its name or id.
        engine: The program: docker, podman or nerdctl.
        env: Its environment; None for this process's own.
    """

    def __init__(self, container: str, engine: str = "docker", env: Mapping[str, str] | None = None) -> None:
        self._container = container
        self._engine = engine
        self._env = env

    @property
    def user(self) -> str:
        """Nodes run as root."""
        return "root"

    def execute(
        self, argv: Sequence[str], *, stdin: Iterator[bytes], output: Output, deadline_s: float, repeatable: bool
    ) -> int:
        """Run `argv` to its end; its exit status."""
        command = (self._engine, "exec", "-i", "--user=0", self._container, *_STATUS, *argv)
        rc = process.execute(
            self._container,
            command,
            stdin=stdin,
            output=output,
            deadline_s=deadline_s,
            repeatable=repeatable,
            env=self._env,
        )
        said = output.stderr.decode(errors="replace").strip()
        if rc and said.lower().startswith(_OWN_COMPLAINTS):
            look = f"{self._engine} ps --all --filter name={self._container}"
            nobody = "daemon" in said and "connect" in said.lower()
            raise HostUnreachable(
                f"container {self._container}: {said.splitlines()[-1][:256]}",
                remedy=f"set DOCKER_HOST to the daemon that runs it, then `{look}`; or pass --ssh" if nobody else look,
            )
        return rc

    def converse(self, service: str, talk: Callable[[Stream], T], *, silence_s: float) -> T:
        """Nothing: services are SSH's."""
        del talk, silence_s
        raise process.no_service(self._container, service)

    def close(self) -> None:
        """Nothing is held."""
