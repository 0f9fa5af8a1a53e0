"""Every failure that this tool raises on purpose, and the exit code of each.

OrchestratorError                1  (never raised itself)
├── BadUsage                     2  an argument cannot be meant
├── FactUnreadable              10  something answered, but not in a form we know
├── HostError                   11  a host could not be worked on
│   ├── HostUnreachable         11  no connection, or one that broke where nothing can have happened; retryable
│   ├── HostConnectionLost      11  the connection broke while a command ran: what became of it is not known
│   ├── HostKeyUnknown          11  nobody has vouched for the key that the host shows
│   ├── HostKeyChanged          11  the host shows another key than the known one
│   ├── HostAuthFailed          11  the host, or its sudo, refuses us
│   ├── HostFileMissing         11  there is no such file on the host
│   ├── HostLacks               11  the host does not offer what it was asked for: commands, or a service of SSH
│   ├── CommandFailed           11  a command ended, but not well
│   ├── CommandTimedOut         11  a command did not end in the time it was given, and was ended
│   └── CommandVanished         11  a detached command ended without a result: the host went down under it
├── ApiError                    12  the Kubernetes API did not do as asked
│   ├── ApiUnreachable          12  no answer, or a server that is not up; retryable
│   ├── ApiThrottled            12  429 from priority and fairness; retryable
│   ├── ApiConflict             12  409: somebody changed the object; retryable
│   ├── ApiForbidden            12  403 that will not go away by itself
│   ├── ApiUnauthorized         12  401, expired or wrong credentials
│   └── ApiNotFound             12  404
├── Refused                     20  a precondition forbids it; nothing was changed by this step
├── Locked                      21  another run holds the cluster
├── LeaseLost                   21  this run held the cluster and holds it no more
├── GoalNotReached              30  applied, but not there within its time
├── BackupError                 40  a backup is not there, not whole, or could not be stored
│   ├── SnapshotInvalid         40  a file is no whole snapshot, or not the one that was recorded
│   └── StoreError              40  a destination could not be read or written
└── Interrupted                130  a person or a signal stopped it
    └── Paused                   4  it stopped where it was asked to: nothing is wrong
"""

from __future__ import annotations

from typing import ClassVar


class OrchestratorError(Exception):
    """Something this tool refused or failed to do, and what a person can do about it.

    Never wrapped in another class: context is added on the way up with `add_note`, so that the class, and with
    it `exit_code`, stays the one that was raised.

    Attributes:
        remedy: An order that a tired person can follow or paste. Never empty.
        run: The run that it stopped, which can be continued and undone; "" when there is none.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    run: str = ""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), str(self), dict(self.__dict__)))


def _rebuilt(kind: type[OrchestratorError], message: str, state: dict[str, object]) -> OrchestratorError:
    err = kind.__new__(kind)
    Exception.__init__(err, message)
    err.__dict__.update(state)
    return err


class BadUsage(OrchestratorError):
    """An argument, or a combination of them, that cannot be meant. Nothing was sent."""

    exit_code = 2


class FactUnreadable(OrchestratorError):
    """Something answered, but not in a form that we know. Unknown is never read as "no"."""

    exit_code = 10


class HostError(OrchestratorError):
    """A host could not be worked on, over SSH or otherwise."""

    exit_code = 11


class HostUnreachable(HostError):
    """No connection could be made, or it broke under something that may be repeated."""

    retryable = True


class HostConnectionLost(HostError):
    """The connection broke while a command ran that must not be repeated unseen."""


class HostKeyUnknown(HostError):
    """The host shows a key that is in no known_hosts file. Nothing was sent to it."""


class HostKeyChanged(HostError):
    """The host shows another key than the known one, or a revoked one. Nothing was sent to it."""


class HostAuthFailed(HostError):
    """The host took none of our keys, or its sudo not our password."""


class HostFileMissing(HostError):
    """There is no such file on the host."""


class HostLacks(HostError):
    """The host is there, and does not offer what it was asked for: to run commands, or a service over SSH."""


class CommandFailed(HostError):
    """A command on a host ended with a status that its caller does not accept.

    Attributes:
        rc: The status; 128 and the signal's number when a signal ended it.
    """

    def __init__(self, message: str, *, remedy: str, rc: int = 1) -> None:
        super().__init__(message, remedy=remedy)
        self.rc = rc


class CommandTimedOut(HostError):
    """A command on a host did not end in the time it was given. It was ended there."""


class CommandVanished(HostError):
    """A detached command is gone and left no result: the host went down, or somebody killed all of it."""


class ApiError(OrchestratorError):
    """The Kubernetes API did not do as asked.

    Attributes:
        status: The HTTP status, or None when there was no answer.
        reason: The `reason` of the API's Status object, "" when there was none.
        retry_after_s: What the server asked for in `Retry-After`, in seconds, or None.
    """

    exit_code = 12

    def __init__(
        self,
        message: str,
        *,
        remedy: str,
        status: int | None = None,
        reason: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.reason = reason
        self.retry_after_s = retry_after_s


class ApiUnreachable(ApiError):
    """No answer at all, a gateway's, or one from a server that is not up yet."""

    retryable = True


class ApiThrottled(ApiError):
    """429 by API priority and fairness or by the server's own limits: the server is busy, not unwilling."""

    retryable = True


class ApiConflict(ApiError):
    """409: the object, or one that the server had to change with it, was changed by somebody else meanwhile."""

    retryable = True


class ApiForbidden(ApiError):
    """403 that will not go away by itself."""


class ApiUnauthorized(ApiError):
    """401: the credentials are wrong or have expired."""


class ApiNotFound(ApiError):
    """404."""


class Refused(OrchestratorError):
    """A precondition forbids the step."""

    exit_code = 20


class Locked(OrchestratorError):
    """Another run holds the cluster."""

    exit_code = 21


class LeaseLost(OrchestratorError):
    """This run held the cluster and cannot prove that it still does. No further effect was started.

    Attributes:
        unanswered: No API server answered; nobody is known to have taken it.
    """

    exit_code = 21
    unanswered: bool = False


class GoalNotReached(OrchestratorError):
    """The step was applied but did not reach its goal in the time it was given."""

    exit_code = 30


class BackupError(OrchestratorError):
    """There is no backup, or none as it has to be."""

    exit_code = 40


class SnapshotInvalid(BackupError):
    """A file is not a whole snapshot, not the one that was recorded, or cannot be decrypted."""


class StoreError(BackupError):
    """A destination could not be read or written."""


class Interrupted(OrchestratorError):
    """A person, or a signal, stopped the run."""

    exit_code = 130


class Paused(Interrupted):
    """The run came to the place where it was asked to stop. All before it is done."""

    exit_code = 4
