"""The API server's audit log, as requests that can be counted."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: A request is written once it has been answered, and a watch once the server has noticed that its client is gone.
QUIET_S = 0.5
_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered.

    Attributes:
        verb: `get`, `list`, `watch`, `create`, …; of a path that is no resource, its HTTP method in small letters.
        resource: `pods`, `pods/eviction`; of others, the path.
        status: HTTP status of the answer.
        agent: The client, as it names itself: what stands before the first `/` of its user agent.
    """

    verb: str
    resource: str
    status: int
    agent: str


def parse(lines: Iterable[str]) -> tuple[Request, ...]:
    """The requests that lines of the log tell of, in their order, each once.

    Source: audit.k8s.io/v1 Event: stages of one request share `auditID`; `ResponseComplete` comes last, and for a
    watch when it ends. `objectRef` is left out for paths that are no resource.
    """
    return tuple(_request(event) for line in lines if (event := json.loads(line))["stage"] == "ResponseComplete")


def _request(event: dict[str, Any]) -> Request:
    where = event.get("objectRef", {})
    parts = [where[key] for key in ("resource", "subresource") if where.get(key)]
    resource = "/".join(parts) or urlsplit(event["requestURI"]).path
    agent = event.get("userAgent", "").partition("/")[0]
    return Request(event["verb"], resource, event.get("responseStatus", {}).get("code", 0), agent)


class Log:
    """A log that is read on from where it was read to.

    Args:
        path: Its file.
        quiet_s: It is complete when nothing was added to it for this long.
    """

    def __init__(self, path: Path, *, quiet_s: float = QUIET_S) -> None:
        self._path = path
        self._quiet_s = quiet_s
        self._read = 0

    def new(self) -> tuple[Request, ...]:
        """The requests since the last call, once no more come.

        Raises:
            LabError: They do not end.
        """
        deadline = time.monotonic() + _PATIENCE_S
        size = -1
        while (now := self._path.stat().st_size if self._path.exists() else 0) != size:
            if time.monotonic() > deadline:
                raise LabError("requests of the user `operator` do not end", remedy=f"see who makes them: {self._path}")
            size = now
            time.sleep(self._quiet_s)
        if not size:
            return ()
        with self._path.open("rb") as log:
            log.seek(self._read)
            text = log.read(size - self._read)
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        return parse(whole.decode().splitlines())
