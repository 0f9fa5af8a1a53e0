"""Many small requests to a control plane of the lab, as one of its users: for filling it and for looking."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import urllib3

from lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from lab.api.tier import ControlPlane

_TOGETHER = 16
_TIMEOUT_S = 30.0
MERGE = "application/merge-patch+json"


class Client:
    """Requests as one user. A context manager."""

    def __init__(self, plane: ControlPlane, user: str = "load") -> None:
        self._server = plane.server
        self._token = plane.token(user)
        self._pool = urllib3.PoolManager(
            maxsize=_TOGETHER, ca_certs=str(plane.certificate_authority), timeout=_TIMEOUT_S, retries=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.clear()

    def ask(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        """The answer's JSON.

        Raises:
            LabError: It is not a success.
        """
        status, answer = self.attempt(method, path, body, content_type=content_type)
        if status >= 300:
            raise LabError(f"{method} {path}: {status} {answer.get('message', '')}", remedy="see the API server's log")
        return answer

    def attempt(
        self, method: str, path: str, body: object = None, *, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        """The status and the JSON of the answer."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        payload = None if body is None else json.dumps(body).encode()
        answer = self._pool.request(method, f"{self._server}{path}", body=payload, headers=headers)
        return answer.status, json.loads(answer.data) if answer.data[:1] in (b"{", b"[") else {}

    def get(self, path: str) -> Any:
        """What is there."""
        return self.ask("GET", path)

    def create(self, *objects: dict[str, Any]) -> list[Any]:
        """Create objects, many at once, and give them as stored, in order."""
        if len(objects) == 1:
            return [self.ask("POST", collection(objects[0]), objects[0])]
        with ThreadPoolExecutor(_TOGETHER) as pool:
            return list(pool.map(lambda each: self.ask("POST", collection(each), each), objects))

    def patch(self, path: str, change: object) -> Any:
        """Merge `change` into an object."""
        return self.ask("PATCH", path, change, content_type=MERGE)

    def delete(self, paths: Iterable[str], *, now: bool = False) -> None:
        """Delete objects, many at once; those that are gone already are fine."""
        query = "?gracePeriodSeconds=0" if now else ""
        with ThreadPoolExecutor(_TOGETHER) as pool:
            for path, (status, _) in pool.map(lambda p: (p, self.attempt("DELETE", p + query)), paths):
                if status >= 300 and status != 404:
                    raise LabError(f"DELETE {path}: {status}", remedy="see the API server's log")

    def wait(self, what: str, ready: Callable[[], bool], *, timeout_s: float = 60, pause_s: float = 0.05) -> None:
        """Return once `ready` says yes.

        Raises:
            LabError: It did not within the time.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise LabError(f"waited {timeout_s:.0f} s for {what}", remedy="see the logs of the control plane")
            time.sleep(pause_s)


_PLURALS = {"NetworkPolicy": "networkpolicies"}


def collection(described: dict[str, Any]) -> str:
    """The path under which an object is created.

    Source: API concepts, "Resource URIs"; plurals of the kinds used here are regular.
    """
    version, kind, metadata = described["apiVersion"], described["kind"], described["metadata"]
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    where = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    plural = _PLURALS.get(kind, f"{kind.lower()}s")
    return f"{root}{where}/{plural}"
