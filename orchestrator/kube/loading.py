"""API servers that have just started: they forbid everything until they know their own RBAC objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import ApiError

if TYPE_CHECKING:
    from orchestrator.engine.clock import Clock
    from orchestrator.kube.session import Session

#: How long a 403 may be such a server's, where `/readyz` is forbidden as well: a 403 that is meant should not cost a
#: person more; but who was answered before, in this process or this run, waits for a restart. Seen: 39 s, of an etcd.
LOADING_S, RESTARTING_S = 20.0, 60.0


class Loading:
    """Whether a 403 just now is meant, or came from a server that does not know its own RBAC objects yet.

    Such a server forbids everything, its own `/readyz` too, which a loaded one answers for every user; so a `/readyz`
    of 200 says that the 403 is meant. Clusters that hide `/readyz` are given up on after a while.

    Source: seen on API servers 1.36 and 1.37 in their first seconds; role `system:public-info-viewer`.
    """

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._since: float | None = None

    def over(self) -> None:
        """A request was answered."""
        self._since = None
        self._session.answered = True

    def goes_on(self) -> bool:
        """Whether it is loading; asks it."""
        now = self._clock.now()
        try:
            ready = self._session.send("GET", "/readyz", timeout_s=5.0).status == 200
        except ApiError:
            ready = False
        if ready:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since < (RESTARTING_S if self._session.answered else LOADING_S)
