"""Watches that go on: reopened when the connection ends or breaks, listed again when the server forgot the place."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from orchestrator.cluster.model import Budget, Pod, PodChange
from orchestrator.errors import ApiError, ApiUnreachable, FactUnreadable
from orchestrator.kube.wire import BudgetObject, Status, WatchEvent
from orchestrator.kube.wirepods import PodObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from orchestrator.cluster.model import PodList
    from orchestrator.kube.session import Session, Stream

T = TypeVar("T")

#: One watch lasts this long: a connection that a middlebox dropped without a word is noticed by then.
WATCH_S = 60
#: Beyond the server's own end of the watch, before silence counts as a broken connection.
SILENCE_S = 15.0
#: Pauses between attempts to reopen, growing to the last.
REOPEN_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
#: So many refusals in a row (about 19 s) are meant: until then, a server that just started may not know its RBAC yet.
REFUSALS = 8

GONE = 410

_EVENT = msgspec.json.Decoder(WatchEvent)
_POD = msgspec.json.Decoder(PodObject)
_BUDGET = msgspec.json.Decoder(BudgetObject)
_STATUS = msgspec.json.Decoder(Status)


class Expired(Exception):
    """The server no longer has the resource version that the watch asked for."""


class Watch(Generic[T]):
    """A context manager around an iterator that blocks; leaving it, from any thread, ends the iterator."""

    def __init__(self, follow: Callable[[Watch[T]], Iterator[T]], session: Session) -> None:
        self._follow = follow
        self._session = session
        self._closed = threading.Event()
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Iterator[T]:
        return self._follow(self)

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with self._lock:
            if self._stream:
                self._stream.close()

    @property
    def closed(self) -> bool:
        """The context was left."""
        return self._closed.is_set()

    def events(self, path: str, query: Mapping[str, str]) -> Iterator[WatchEvent]:
        """The events of one connection, errors raised.

        Raises:
            Expired: 410, by status or as an event.
            ApiError: The server refused or the connection broke.
            FactUnreadable: What came is no event.
        """
        asked = {**query, "watch": "1", "allowWatchBookmarks": "true", "timeoutSeconds": str(WATCH_S)}
        try:
            stream = self._session.stream(path, query=asked, read_timeout_s=WATCH_S + SILENCE_S)
        except ApiError as err:
            if err.status == GONE:
                raise Expired from err
            raise
        with self._lock:
            self._stream = stream
            if self.closed:
                stream.close()
        for line in stream.lines():
            if line.strip():
                yield _checked(_decoded(_EVENT, line))

    def pause(self, attempt: int, err: ApiError | None = None) -> int:
        """Wait before attempt number `attempt` (from 0) to reopen, or until the context is left.

        Returns:
            The number of the next attempt.

        Raises:
            ApiError: `err`, when it is a refusal that has lasted.
        """
        if err and not err.retryable and attempt >= REFUSALS:
            raise err
        self._closed.wait(REOPEN_S[min(attempt, len(REOPEN_S) - 1)])
        return attempt + 1


def _decoded(decoder: msgspec.json.Decoder[T], sent: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(sent)
    except msgspec.MsgspecError as err:
        raise FactUnreadable(
            f"cannot follow a watch: what it sent is not what an API server says ({err})",
            remedy="is there a proxy between here and the API server that answers in its place?",
        ) from err


def _checked(event: WatchEvent) -> WatchEvent:
    if event.type != "ERROR":
        return event
    status = _decoded(_STATUS, event.object)
    if status.code == GONE:
        raise Expired
    raise ApiUnreachable(f"the watch ended: {status.message[:256]}", remedy="it is opened again", status=status.code)


def pods(session: Session, since: PodList, query: Mapping[str, str], relist: Callable[[], PodList]) -> Watch[PodChange]:
    """Changes of the pods that `query` selects, after `since`.

    Source: API concepts, "Efficient detection of changes": 410 means list again; bookmarks keep the place fresh.
    """

    def follow(watch: Watch[PodChange]) -> Iterator[PodChange]:
        known = {pod.uid: pod for pod in since.pods}
        version, attempt = since.resource_version, 0
        while not watch.closed:
            try:
                for event in watch.events("/api/v1/pods", {**query, "resourceVersion": version}):
                    attempt = 0
                    obj = _decoded(_POD, event.object)
                    version = obj.metadata.resource_version or version
                    if event.type != "BOOKMARK":
                        yield _pod_change(event.type, obj.fact(), known)
            except Expired:
                now = _listed_again(watch, relist)
                yield from _differences(known, now)
                version = now.resource_version
                attempt = watch.pause(attempt)
            except ApiError as err:
                attempt = watch.pause(attempt, err)
            else:
                watch.pause(0)

    return Watch(follow, session)


def _pod_change(kind: str, pod: Pod, known: dict[str, Pod]) -> PodChange:
    if kind == "DELETED":
        known.pop(pod.uid, None)
        return PodChange(pod, gone=True)
    known[pod.uid] = pod
    return PodChange(pod, gone=False)


def _listed_again(watch: Watch[PodChange], relist: Callable[[], PodList]) -> PodList:
    """The pods now; tries until it is answered or the context is left, for nobody else would."""
    attempt = 0
    while True:
        try:
            return relist()
        except ApiError as err:
            if watch.closed:
                raise
            attempt = watch.pause(attempt, err)


def _differences(known: dict[str, Pod], now: PodList) -> Iterator[PodChange]:
    there = {pod.uid: pod for pod in now.pods}
    for uid, pod in tuple(known.items()):
        if uid not in there:
            del known[uid]
            yield PodChange(pod, gone=True)
    for uid, pod in there.items():
        if known.get(uid) != pod:
            known[uid] = pod
            yield PodChange(pod, gone=False)


def budgets(session: Session) -> Watch[Budget]:
    """All budgets as they are, then each change; one that was deleted comes with no selector and covers nothing.

    Source: API concepts, "resourceVersion unset" for watch: begins with synthetic events of all objects, so one
    request lists and watches, and a reopened watch needs no place to continue from.
    """

    def follow(watch: Watch[Budget]) -> Iterator[Budget]:
        attempt = 0
        while not watch.closed:
            try:
                for event in watch.events("/apis/policy/v1/poddisruptionbudgets", {}):
                    attempt = 0
                    if event.type == "BOOKMARK":
                        continue
                    yield _as_seen(event.type, _decoded(_BUDGET, event.object).fact())
            except Expired:
                attempt = watch.pause(attempt)
            except ApiError as err:
                attempt = watch.pause(attempt, err)
            else:
                watch.pause(0)

    return Watch(follow, session)


def _as_seen(kind: str, budget: Budget) -> Budget:
    if kind != "DELETED":
        return budget
    return Budget(budget.namespace, budget.name, None, allowed=0, healthy=0, needed=0, expected=0)
