"""Budgets held, and nodes cordoned, as the API server shows them to anybody."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from lab.errors import LabError
from lab.processes import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from lab.upgrades.access import Access, Api

_WATCH_S = 10
_AGAIN_S = 0.1


@dataclass(frozen=True, slots=True)
class Shortage:
    """A time in which a budget had fewer ready pods than it needs.

    Attributes:
        budget: `namespace/name`.
        since: Seconds since 1970.
        until: Likewise; None while it lasts.
        ready: The fewest.
        needed: How many it wants.
    """

    budget: str
    since: float
    until: float | None
    ready: int
    needed: int


@dataclass(frozen=True, slots=True)
class Cordon:
    """A time in which a node took no new pods; seconds since 1970, `until` None while it lasts."""

    node: str
    since: float
    until: float | None

    @property
    def took_s(self) -> float:
        """How long it lasted, or has lasted."""
        return (self.until or time.time()) - self.since


@dataclass(frozen=True, slots=True)
class Held:
    """What was seen in all.

    Attributes:
        shortages: In the order of their beginning.
        cordons: Likewise.
        blind_s: How long no watch came about, or one broke off; one that was left open and silent is not in it.
    """

    shortages: tuple[Shortage, ...]
    cordons: tuple[Cordon, ...]
    blind_s: float

    def out_of_service_s(self, node: str) -> float:
        """How long a node was cordoned, all times together."""
        return sum(each.took_s for each in self.cordons if each.node == node)


class BudgetWatch:
    """Watches pods, budgets and nodes; goes on where it left off when the API server was away. A context manager.

    A pod counts as the budgets' own controller counts it: ready, and not on its way out.

    Args:
        access: To the cluster.
        namespace: Whose budgets; of all by default.
    """

    def __init__(self, access: Access, namespace: str = "") -> None:
        where = f"/namespaces/{namespace}" if namespace else ""
        api = access.api()
        self._lock = threading.Lock()
        self._over = threading.Event()
        pods, budgets, nodes = f"/api/v1{where}/pods", f"/apis/policy/v1{where}/poddisruptionbudgets", "/api/v1/nodes"
        self._pods, self._budgets, self._nodes = (
            _Mirror(api, path, self._look, self._lock, self._over) for path in (pods, budgets, nodes)
        )
        self._mirrors = (self._pods, self._budgets, self._nodes)
        self._short: dict[str, Shortage] = {}
        self._shortages: list[Shortage] = []
        self._cordoned: dict[str, float] = {}
        self._cordons: list[Cordon] = []

    def __enter__(self) -> Self:
        for mirror in self._mirrors:
            mirror.start()
        wait_for(
            "the first look at pods, budgets and nodes",
            lambda: all(mirror.synced for mirror in self._mirrors),
            timeout_s=60, pause_s=0.05, remedy="is the API server up?",
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def so_far(self) -> Held:
        """What was seen until now."""
        with self._lock:
            shortages = [*self._shortages, *self._short.values()]
            cordons = [*self._cordons, *(Cordon(node, since, None) for node, since in self._cordoned.items())]
            return Held(
                tuple(sorted(shortages, key=lambda each: each.since)),
                tuple(sorted(cordons, key=lambda each: each.since)),
                max(mirror.blind_s for mirror in self._mirrors),
            )

    def stop(self) -> Held:
        """All that was seen; it looks no more."""
        self._over.set()
        return self.so_far()

    def _look(self) -> None:
        """Take in what has changed; the lock is held."""
        if not all(mirror.synced for mirror in self._mirrors):
            return
        now = time.time()
        for name, budget in self._budgets.objects.items():
            self._measure(name, needed(budget), self._healthy(budget), now)
        for name, node in self._nodes.objects.items():
            if node["spec"].get("unschedulable"):
                self._cordoned.setdefault(name, now)
            elif name in self._cordoned:
                self._cordons.append(Cordon(name, self._cordoned.pop(name), now))

    def _measure(self, name: str, wanted: int, ready: int, now: float) -> None:
        before = self._short.get(name)
        if ready < wanted:
            fewest = min(ready, before.ready) if before else ready
            self._short[name] = Shortage(name, before.since if before else now, None, fewest, wanted)
        elif before:
            del self._short[name]
            self._shortages.append(Shortage(name, before.since, now, before.ready, before.needed))

    def _healthy(self, budget: Mapping[str, Any]) -> int:
        namespace = budget["metadata"]["namespace"]
        labels = budget["spec"]["selector"]["matchLabels"].items()
        return sum(
            pod["metadata"]["namespace"] == namespace
            and labels <= pod["metadata"].get("labels", {}).items()
            and "deletionTimestamp" not in pod["metadata"]
            and _ready(pod)
            for pod in self._pods.objects.values()
        )


def needed(budget: Mapping[str, Any]) -> int:
    """How many pods a budget wants ready: its own number, or what the controller made of a share."""
    least = budget["spec"].get("minAvailable")
    return least if isinstance(least, int) else int(budget.get("status", {}).get("desiredHealthy", 0))


def _ready(pod: Mapping[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class _Mirror:
    """What the API server has of one kind, followed in a thread: name or `namespace/name` -> object."""

    def __init__(
        self, api: Api, path: str, changed: Callable[[], None], lock: threading.Lock, over: threading.Event
    ) -> None:
        self.objects: dict[str, Mapping[str, Any]] = {}
        self.synced = False
        self.blind_s = 0.0
        self._api = api
        self._path = path
        self._changed = changed
        self._lock = lock
        self._over = over
        self._heard = time.monotonic()

    def start(self) -> None:
        """Begin to follow; it ends by itself soon after it is over."""
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while not self._over.is_set():
            try:
                version = self._list()
                while version and not self._over.is_set():
                    version = self._watch(version)
            except (OSError, http.client.HTTPException, LabError, ValueError):
                self._over.wait(_AGAIN_S)

    def _list(self) -> str:
        """The version that a watch goes on from."""
        found = self._api.get(self._path)
        with self._lock:
            if self.synced:
                self.blind_s += time.monotonic() - self._heard
            self.objects = {_name(each): each for each in found["items"]}
            self.synced = True
            self._note()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, version: str) -> str:
        """The version that the next watch goes on from; empty where it has to begin anew."""
        query = f"?watch=1&timeoutSeconds={_WATCH_S}&allowWatchBookmarks=true&resourceVersion={version}"
        for event in self._api.lines(self._path + query, timeout_s=_WATCH_S + 3):
            if event["type"] == "ERROR":
                return ""
            with self._lock:
                self._take(event["type"], event["object"])
                self._note()
            version = event["object"]["metadata"]["resourceVersion"]
        self._heard = time.monotonic()
        return version

    def _take(self, kind: str, found: Mapping[str, Any]) -> None:
        if kind in ("ADDED", "MODIFIED"):
            self.objects[_name(found)] = found
        elif kind == "DELETED":
            self.objects.pop(_name(found), None)

    def _note(self) -> None:
        self._heard = time.monotonic()
        if not self._over.is_set():
            self._changed()


def _name(found: Mapping[str, Any]) -> str:
    metadata = found["metadata"]
    return "/".join(metadata[key] for key in ("namespace", "name") if metadata.get(key))
