"""The run lock as a `coordination.k8s.io` Lease, which anybody can read with `kubectl get lease -n kube-system`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from orchestrator.engine.clock import SystemClock
from orchestrator.engine.lease import LeaseRecord
from orchestrator.errors import ApiConflict, ApiError, ApiForbidden, ApiNotFound, ApiUnreachable
from orchestrator.kube.loading import Loading
from orchestrator.kube.wire import Meta, WatchEvent, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.engine.clock import Clock
    from orchestrator.kube.session import Response, Session

T = TypeVar("T")

NAMESPACE = "kube-system"
NAME = "kube-orchestrator"
RUN_ANNOTATION = "kube-orchestrator.io/run"
#: Well under the lease's duration, so that a renewal that hangs leaves time for another.
REQUEST_TIMEOUT_S = 4.0

_PATH = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"


class LeaseSpec(Wire):
    """A Lease's spec."""

    holder_identity: str = ""
    acquire_time: datetime | None = None
    renew_time: datetime | None = None
    lease_duration_seconds: int = 0


class LeaseObject(Wire):
    """A Lease."""

    metadata: Meta
    spec: LeaseSpec = msgspec.field(default_factory=LeaseSpec)

    def fact(self) -> LeaseRecord:
        """The record as the engine has it."""
        spec = self.spec
        return LeaseRecord(
            holder=spec.holder_identity,
            run=(self.metadata.annotations or {}).get(RUN_ANNOTATION, ""),
            acquired=spec.acquire_time.timestamp() if spec.acquire_time else 0.0,
            renewed=spec.renew_time.timestamp() if spec.renew_time else 0.0,
            duration_s=spec.lease_duration_seconds,
            resource_version=self.metadata.resource_version,
            uid=self.metadata.uid,
        )


_LEASE = msgspec.json.Decoder(LeaseObject)
_EVENT = msgspec.json.Decoder(WatchEvent)


class KubeLeases:
    """The one Lease of a cluster; see `engine.lease.LeaseStore`. Nothing is retried here."""

    def __init__(self, session: Session, clock: Clock | None = None) -> None:
        self._session = session
        self._loading = Loading(session, clock or SystemClock())

    def read(self) -> LeaseRecord | None:
        """The record, or None."""
        try:
            return self._lease("GET", f"{_PATH}/{NAME}", None, "read the run lock")
        except ApiNotFound:
            return None

    def create(self, record: LeaseRecord) -> LeaseRecord:
        """The record as stored; ApiConflict when there is one."""
        return self._lease("POST", _PATH, _object(record), "take the run lock")

    def replace(self, record: LeaseRecord) -> LeaseRecord:
        """The record as stored, if nobody changed it since it was read."""
        return self._lease("PUT", f"{_PATH}/{NAME}", _object(record), "renew the run lock")

    def delete(self, record: LeaseRecord) -> None:
        """Remove the record, if it is still that one."""
        preconditions = {"uid": record.uid, "resourceVersion": record.resource_version}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        self._send("DELETE", f"{_PATH}/{NAME}", body, "give the run lock back")

    def watch(self, since: LeaseRecord, timeout_s: float) -> Iterator[LeaseRecord | None]:
        """Changes of the record for `timeout_s`; None when it was deleted.

        Raises:
            ApiError: The watch was refused or broke, or the place it was to start from is forgotten.
        """
        seconds = max(1, round(timeout_s))
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={NAME}",
            "resourceVersion": since.resource_version,
            "timeoutSeconds": str(seconds),
        }
        stream = self._session.stream(_PATH, query=query, read_timeout_s=seconds + REQUEST_TIMEOUT_S)
        what = "watch the run lock"
        try:
            for line in stream.lines():
                event = _decoded(_EVENT, line, what)
                if event.type == "ERROR":
                    raise ApiConflict("the watch of the run lock ended", remedy="it is opened again")
                yield None if event.type == "DELETED" else _decoded(_LEASE, event.object, what).fact()
        finally:
            stream.close()

    def _lease(self, method: str, path: str, body: object, what: str) -> LeaseRecord:
        return _decoded(_LEASE, self._send(method, path, body, what).body, what).fact()

    def _send(self, method: str, path: str, body: object, what: str) -> Response:
        answer = self._session.send(method, path, body=body, timeout_s=REQUEST_TIMEOUT_S)
        if answer.status >= 300:
            err: ApiError = self._session.failure(answer, what)
            if isinstance(err, ApiForbidden) and self._loading.goes_on():
                raise ApiUnreachable(f"cannot {what}: the API server is loading its permissions", remedy="wait")
            raise err
        self._loading.over()
        return answer


def _decoded(decoder: msgspec.json.Decoder[T], sent: bytes | msgspec.Raw, what: str) -> T:
    """Something else than the API server answered where this cannot be decoded: as good as no answer."""
    try:
        return decoder.decode(sent)
    except msgspec.MsgspecError as err:
        raise ApiUnreachable(
            f"cannot {what}: the answer is not what an API server says ({err})",
            remedy="is there a proxy between here and the API server that answers in its place?",
        ) from err


def _object(record: LeaseRecord) -> dict[str, Any]:
    """Source: `MicroTime` is RFC 3339 with exactly six digits of a second."""
    metadata: dict[str, Any] = {"name": NAME, "namespace": NAMESPACE, "annotations": {RUN_ANNOTATION: record.run}}
    if record.resource_version:
        metadata |= {"resourceVersion": record.resource_version, "uid": record.uid}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": record.holder,
            "acquireTime": _micro(record.acquired),
            "renewTime": _micro(record.renewed),
            "leaseDurationSeconds": record.duration_s,
        },
    }


def _micro(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
