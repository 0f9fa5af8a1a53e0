"""An answer that is not what was asked for, as an error of our tree, with a remedy.

Bodies are cut, and those that are not a Status are not shown at all: a proxy's page may hold what must not be logged.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.errors import (
    ApiConflict,
    ApiError,
    ApiForbidden,
    ApiNotFound,
    ApiThrottled,
    ApiUnauthorized,
    ApiUnreachable,
)
from orchestrator.kube.wire import Status, read_status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from orchestrator.kube.kubeconfig import Choice

MESSAGE_LIMIT = 256
#: Source: etcd, `rpctypes.ErrGRPCNoSpace`, which an API server hands on with status 500. It does not pass by itself.
_FULL = "mvcc: database space exceeded"
_DOWN = (ApiUnreachable, "is the control plane healthy? try again")
_KINDS: Mapping[int, tuple[type[ApiError], str]] = {
    401: (ApiUnauthorized, "they are wrong, revoked or expired: get a fresh kubeconfig or log in again"),
    403: (ApiForbidden, "ask for the permission; docs/rbac.md has what each command needs"),
    404: (ApiNotFound, "check the name and the context"),
    409: (ApiConflict, "somebody changed it at the same moment: repeat the command"),
    429: (ApiThrottled, "the API server is overloaded: try later"),
    # A gateway's, or those of a server that is starting or stopping, or whose etcd or webhook does not answer.
    500: _DOWN,
    502: _DOWN,
    503: _DOWN,
    504: _DOWN,
}


def from_response(status: int, headers: Mapping[str, str], body: bytes, what: str, choice: Choice) -> ApiError:
    """The error for an answer that is not a success.

    Args:
        status: The HTTP status.
        headers: Of the answer, case-insensitive.
        body: Of the answer.
        what: The request, for people: `read node n1`.
        choice: Of whom the remedy speaks.
    """
    said = read_status(body)
    kind, remedy = _KINDS.get(status, (ApiError, "see the API server's message"))
    if said and _FULL in said.message:
        kind, remedy = ApiError, "etcd takes no writes until it has space again: orchestrator etcd disarm"
    text = f"cannot {what}: {message(said, status)}"
    if status == 401:
        text = f"the cluster does not accept the credentials of context {choice.context or 'in-cluster'}"
    return kind(
        text,
        remedy=remedy,
        status=status,
        reason=said.reason if said else "",
        retry_after_s=retry_after(headers, said) if kind.retryable else None,
    )


def message(said: Status | None, status: int) -> str:
    """What the server said, cut to a line."""
    text = said.message if said and said.message else f"HTTP {status}"
    return " ".join(text.split())[:MESSAGE_LIMIT]


def retry_after(headers: Mapping[str, str], said: Status | None) -> float | None:
    """Seconds that the server asked to wait, or None. The header wins over the Status' details."""
    with contextlib.suppress(ValueError):
        if (value := headers.get("Retry-After")) is not None:
            return max(0.0, float(value))
    if said and said.details and said.details.retry_after_seconds:
        return float(said.details.retry_after_seconds)
    return None


def distrust_remedy(why: str) -> str:
    """What to do about a server's certificate that cannot be trusted; `why` is OpenSSL's."""
    if "has expired" in why or "not yet valid" in why:
        return (
            "look at this machine's clock; if it is right: `kubeadm certs renew apiserver` on each control plane, then"
            " restart its API server"
        )
    if "mismatch" in why:
        return "the kubeconfig's server is not a name in that certificate: use one that is, or set tls-server-name"
    return "the kubeconfig's certificate-authority is not that server's: fetch a fresh kubeconfig"


def certificate_end(path: str | None) -> datetime | None:
    """When the client certificate in `path` ends; None when there is none to read."""
    if not path:
        return None
    try:
        from cryptography import x509  # noqa: PLC0415  read only to explain a refusal

        return x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc
    except (ImportError, OSError, ValueError):
        return None
