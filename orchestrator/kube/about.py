"""What a server and a kubeconfig tell of themselves: versions, health, the ends of certificates, permissions."""

from __future__ import annotations

import base64
import binascii
import json
import re
import socket
import ssl
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from orchestrator.cluster.checkup import Credentials, ServerAnswer
from orchestrator.engine import retry
from orchestrator.errors import ApiError, ApiForbidden, ApiNotFound, FactUnreadable
from orchestrator.kube.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.engine.clock import Clock
    from orchestrator.kube.permissions import Rule
    from orchestrator.kube.session import Response, Session

T = TypeVar("T")

#: For one request, and for a handshake.
TIMEOUT_S = 10.0

_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_CHECK = re.compile(r"^\[([+-])\]etcd(?:-readiness)? ", re.MULTILINE)


class VersionObject(Wire):
    """The answer of `/version`."""

    git_version: str = ""


class ReviewStatus(Wire):
    """The answer to a SelfSubjectAccessReview."""

    allowed: bool = False
    reason: str = ""
    evaluation_error: str = ""


class Review(Wire):
    """A SelfSubjectAccessReview."""

    status: ReviewStatus = msgspec.field(default_factory=ReviewStatus)


class KubeAbout:
    """Asks a server about itself, and reads what the session already has. Changes nothing.

    Args:
        session: The connection.
        clock: For times and deadlines.
        patience_s: How long a failure that passes is retried.
    """

    def __init__(self, session: Session, clock: Clock, *, patience_s: float = retry.API_READ.give_up_s) -> None:
        self._session = session
        self._clock = clock
        self._patience_s = patience_s

    def server(self) -> ServerAnswer:
        """The server's version, how long it took to answer, and how far its clock is ahead of ours.

        Raises:
            ApiError: It does not answer, or not for this user.
        """
        begun, at = self._clock.now(), self._clock.wall()
        answer = self._get("/version", "read the server's version")
        took_s = self._clock.now() - begun
        version = self._decoded(answer, VersionObject, "read the server's version").git_version
        return ServerAnswer(version, took_s, _ahead(answer.headers.get("Date"), at + took_s / 2))

    def version(self) -> str:
        """The server's version; "" where the cluster does not tell it to this user."""
        try:
            return self.server().version
        except (ApiForbidden, ApiNotFound):
            return ""

    def etcd_answers(self) -> bool | None:
        """The API server's own check of its etcd; None where it cannot be read.

        Source: `/readyz?verbose` has a line `[+]etcd ok` or `[-]etcd failed: reason withheld` a check, with status
        200 or 500; role `system:public-info-viewer` lets everybody read it.
        """
        try:
            answer = self._session.send("GET", "/readyz", query={"verbose": ""}, timeout_s=TIMEOUT_S)
        except ApiError:
            return None
        signs = _CHECK.findall(answer.body.decode(errors="replace")) if answer.status in (200, 500) else []
        return all(sign == "+" for sign in signs) if signs else None

    def serving_certificate_end(self) -> float | None:
        """When the certificate ends that the server shows in a handshake; None where that cannot be seen.

        Nothing is sent and nothing is believed but the date, so it is read without being verified: only so can the
        end of one that has ended be told. All other requests verify it. Of several servers behind one address it
        is the certificate of whichever answered.
        """
        parts = urlsplit(self._session.server)
        if parts.scheme != "https" or not parts.hostname or self._session.proxied:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            with (
                socket.create_connection((parts.hostname, parts.port or 443), TIMEOUT_S) as plain,
                context.wrap_socket(plain, server_hostname=self._session.tls_name or parts.hostname) as tls,
            ):
                shown = tls.getpeercert(binary_form=True)
        except OSError:
            return None
        return _certificate_end(shown) if shown else None

    def credentials(self) -> Credentials:
        """With what this session proves who it is, and when that ends."""
        if path := self._session.client_certificate:
            return Credentials("client certificate", _certificate_end(_read(path)))
        if token := self._session.bearer_token:
            return Credentials("token", _token_end(token), renews=self._session.token_renews)
        return Credentials("none", None)

    def denied(self, rule: Rule) -> str:
        """Why `rule` does not hold for this user; "" when it does.

        Source: SelfSubjectAccessReview: a question in the form of a create; it stores nothing. Role
        `system:basic-user` lets everybody ask.
        """
        resource, _, subresource = rule.resource.partition("/")
        attributes = {"group": rule.group, "resource": resource, "subresource": subresource, "verb": rule.verb}
        attributes |= {"namespace": rule.namespace, "name": rule.name}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {k: v for k, v in attributes.items() if v}},
        }

        what = f"ask whether this user may {rule}"

        def attempt() -> Response:
            answer = self._session.send("POST", _REVIEWS, body=body, timeout_s=min(TIMEOUT_S, self._patience_s))
            if answer.status >= 300:
                raise self._session.failure(answer, what)
            return answer

        said = self._decoded(self._retried(attempt), Review, what).status
        return "" if said.allowed else said.evaluation_error or said.reason or "no role grants it"

    def _get(self, path: str, what: str) -> Response:
        def attempt() -> Response:
            answer = self._session.send("GET", path, timeout_s=min(TIMEOUT_S, self._patience_s))
            if answer.status != 200:
                raise self._session.failure(answer, what)
            return answer

        return self._retried(attempt)

    def _decoded(self, answer: Response, kind: type[T], what: str) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except msgspec.MsgspecError as err:
            raise FactUnreadable(
                f"cannot {what}: the answer is not what an API server says ({err})",
                remedy=f"is {self._session.server} really a Kubernetes API server?",
            ) from err

    def _retried(self, attempt: Callable[[], Response]) -> Response:
        deadline = self._clock.now() + self._patience_s
        return retry.call(retry.API_READ, attempt, clock=self._clock, deadline=deadline)


def _ahead(date: str | None, ours: float) -> float | None:
    """Seconds that the server's clock is ahead of `ours`; the header has whole seconds."""
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - ours if date else None
    except ValueError:
        return None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _certificate_end(encoded: bytes) -> float | None:
    """When the certificate in DER or PEM ends; None when it is none."""
    from cryptography import x509  # noqa: PLC0415  slow to import, and wanted by few commands

    load = x509.load_pem_x509_certificate if b"-----BEGIN" in encoded else x509.load_der_x509_certificate
    try:
        return load(encoded).not_valid_after_utc.timestamp()
    except ValueError:
        return None


def _token_end(token: str) -> float | None:
    """The `exp` of a token that is a JWT; None for others, whose end only the server knows."""
    try:
        claims = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError, binascii.Error):
        return None
