"""One connection pool to one API server: bytes out, bytes in, failures as errors of our tree.

The client library gives configuration, credentials and transport; what is sent and how answers are read is ours.
Nothing is retried here: `kube.cluster` retries, by the named policies.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import kubernetes.client
import kubernetes.config
import msgspec
import urllib3
import urllib3.exceptions

from orchestrator.errors import ApiError, ApiUnauthorized, ApiUnreachable, BadUsage
from orchestrator.kube import failures, kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.errors import OrchestratorError

CONNECT_TIMEOUT_S = 5.0
#: How many idle connections are kept: as many as requests run at once by default, and the watches.
POOL_SIZE = 24

#: Faults that OpenSSL finds in our own files before anything is sent.
_LOCAL_TLS = ("[X509", "[SSL] PEM", "[PEM")
_OBJECT = re.compile(r"^HTTPS?Connection\([^)]*\): ")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer with any status."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Stream:
    """An answer that goes on: the lines of a watch."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def lines(self) -> Iterator[bytes]:
        """Each line as it arrives, without its end; ends when the server or `close` ends it.

        Raises:
            ApiUnreachable: The connection broke, or nothing came within the read timeout.
        """
        rest = b""
        try:
            for chunk in self._response.stream(65536, decode_content=True):
                *whole, rest = (rest + chunk).split(b"\n")
                yield from whole
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as err:
            raise ApiUnreachable(f"the watch broke: {_short(err)}", remedy="it is opened again") from err

    def close(self) -> None:
        """End it, from any thread: a reader that waits sees the end of the stream."""
        with contextlib.suppress(Exception):  # a stream that is ending already has nothing left to shut down
            self._response.shutdown()


class Session:
    """Sends requests to one API server as one user.

    Attributes:
        server: Its URL.
        choice: The context it came from.
    """

    def __init__(self, configuration: Any, choice: kubeconfig.Choice) -> None:
        configuration.connection_pool_maxsize = POOL_SIZE
        configuration.retries = False
        self._configuration = configuration
        self._pool: urllib3.PoolManager = kubernetes.client.ApiClient(configuration).rest_client.pool_manager
        self.server: str = configuration.host.rstrip("/")
        self.choice = choice
        self.answered = False  # a request was granted, in this process or in an earlier one of the same run
        self.user_agent = "orchestrator"

    @property
    def client_certificate(self) -> str | None:
        """Path of the client certificate in use, or None."""
        return self._configuration.cert_file or None

    @property
    def authority(self) -> str:
        """SHA-256 of the certificates that the server's own is checked by, in hex; "" where there are none to read.

        Source: kubeadm writes the bytes of `/etc/kubernetes/pki/ca.crt` into its kubeconfigs.
        """
        path = self._configuration.ssl_ca_cert
        try:
            return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else ""
        except OSError:
            return ""

    @property
    def bearer_token(self) -> str:
        """The token in use, or "". A secret: for reading its end, never for showing."""
        headers = (s["value"] for s in self._configuration.auth_settings().values() if s["value"])
        return next((h.removeprefix("Bearer ").strip() for h in headers if h.startswith("Bearer ")), "")

    @property
    def token_renews(self) -> bool:
        """Something renews the token when it ends."""
        return self.choice.renews

    @property
    def tls_name(self) -> str:
        """The name that the server's certificate is asked for, or "" for that of the URL."""
        return self._configuration.tls_server_name or ""

    @property
    def proxied(self) -> bool:
        """Requests go through a proxy."""
        return bool(self._configuration.proxy)

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout_s: float,
    ) -> Response:
        """One request and its answer, whatever its status.

        Raises:
            ApiUnreachable: No answer within `timeout_s`, or no connection.
            ApiUnauthorized: The TLS handshake failed on a certificate.
        """
        payload = None if body is None else msgspec.json.encode(body)
        answer = self._request(method, path, query, payload, content_type, timeout_s, preload=True, accept=accept)
        return Response(answer.status, answer.headers, answer.data)

    def stream(self, path: str, *, query: Mapping[str, str], read_timeout_s: float) -> Stream:
        """A GET whose answer goes on.

        Raises:
            ApiError: The server refused it.
        """
        answer = self._request("GET", path, query, None, "", read_timeout_s, preload=False)
        if answer.status != 200:
            refused = Response(answer.status, answer.headers, answer.read())
            answer.release_conn()
            raise self.failure(refused, f"watch {path}")
        return Stream(answer)

    def failure(self, answer: Response, what: str) -> ApiError:
        """The error for an answer that is not a success; `what` is the request, for people."""
        err = failures.from_response(answer.status, answer.headers, answer.body, what, self.choice)
        if isinstance(err, ApiUnauthorized) and (end := failures.certificate_end(self._configuration.cert_file)):
            verb = "ended" if end <= datetime.now(UTC) else "is valid until"
            err.add_note(f"the client certificate {verb} {end:%Y-%m-%d %H:%M} UTC")
        return err

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        payload: bytes | None,
        content_type: str,
        timeout_s: float,
        *,
        preload: bool,
        accept: str = "application/json",
    ) -> urllib3.BaseHTTPResponse:
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"User-Agent": self.user_agent, "Accept": accept}
        if payload is not None:
            headers["Content-Type"] = content_type
        for setting in self._configuration.auth_settings().values():
            if setting["value"]:
                headers[setting["key"]] = setting["value"]
        timeout = urllib3.Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s)
        try:
            return self._pool.request(
                method, url, body=payload, headers=headers, timeout=timeout, preload_content=preload, retries=False
            )
        except (urllib3.exceptions.HTTPError, OSError) as err:
            raise self._no_answer(err, method, path, timeout_s) from err

    def _no_answer(self, err: Exception, method: str, path: str, timeout_s: float) -> ApiError:
        text = _short(err)
        if "CERTIFICATE_VERIFY_FAILED" in text:
            why = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or text
            return ApiUnauthorized(
                f"the certificate of {self.server} cannot be trusted: {why}", remedy=failures.distrust_remedy(why)
            )
        if text.startswith(_LOCAL_TLS):
            return ApiUnauthorized(
                f"context {self.choice.context}: its certificates or key cannot be used: {text.partition(' (_ssl')[0]}",
                remedy="repair certificate-authority, client-certificate and client-key in the kubeconfig, or fetch a"
                " fresh one",
            )
        if isinstance(err, urllib3.exceptions.ReadTimeoutError):
            text = f"no answer within {timeout_s:.3g} s"
        return ApiUnreachable(
            f"{self.server} does not answer ({method} {path.split('?', 1)[0]}): {text}",
            remedy=f"is it the right cluster (context {self.choice.context or 'in-cluster'})? is its API server up?",
        )


class Nowhere(Session):
    """Of a cluster that cannot be asked: whatever is asked raises why. `server` is "" where none is even named."""

    def __init__(self, why: OrchestratorError, choice: kubeconfig.Choice) -> None:
        server, self._certificates = kubeconfig.cluster_of(choice)
        super().__init__(kubernetes.client.Configuration(host=server), choice)
        self._why = why

    @property
    def authority(self) -> str:
        """As of any session."""
        return hashlib.sha256(self._certificates).hexdigest() if self._certificates else ""

    def _request(self, *_: object, **__: object) -> urllib3.BaseHTTPResponse:
        raise self._why


def connect(path: str | None, context: str | None) -> Session:
    """A session for the chosen context. Nothing is sent yet.

    Raises:
        BadUsage: The kubeconfig or the context does not exist or cannot be meant.
        ApiUnreachable: There is no kubeconfig, and this is not a pod.
        ApiUnauthorized: Its credentials cannot be loaded.
    """
    choice = kubeconfig.choose(path, context)
    configuration = kubernetes.client.Configuration()
    complaints = _Complaints()
    logging.getLogger().addHandler(complaints)  # the library says on the root logger what a credential plugin said
    try:
        if choice.files:
            joined = ":".join(str(p) for p in choice.files)
            kubernetes.config.load_kube_config(joined, choice.context, configuration)  # type: ignore[no-untyped-call]
        else:
            kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
    except Exception as err:  # the library has checks for some faults, and trips over the others
        raise _unloadable(err, choice) from err
    finally:
        logging.getLogger().removeHandler(complaints)
    if complaints.lines:
        raise ApiUnauthorized(
            f"context {choice.context}: its credential plugin failed: {complaints.lines[0][:256]}",
            remedy="run the plugin's command by hand, log in again, then repeat",
        )
    if urlsplit(configuration.host).scheme not in ("http", "https"):
        raise BadUsage(
            f"context {choice.context}: its cluster {choice.cluster} has no server that is a URL"
            f" ({configuration.host or 'none'})",
            remedy=f"kubectl config set-cluster {choice.cluster} --server=https://HOST:6443",
        )
    return Session(configuration, choice)


def unconnected(path: str | None, context: str | None, why: ApiError) -> Nowhere:
    """Which cluster is meant, as `connect` chooses it; no credentials are looked for, and no plugin is run.

    Raises:
        BadUsage: The kubeconfig or the context cannot be meant.
    """
    try:
        return Nowhere(why, kubeconfig.choose(path, context))
    except ApiUnreachable as err:
        return Nowhere(err, kubeconfig.Choice((), "", "", ""))


def _unloadable(err: Exception, choice: kubeconfig.Choice) -> OrchestratorError:
    """A kubeconfig that is incomplete, or credentials that it names and that are not there.

    Source: the client library shows the whole entry, with its secrets, that lacks a key: it is cut off.
    """
    text = _short(err).partition("{")[0]
    if isinstance(err, kubernetes.config.ConfigException) and text.startswith("Invalid kube-config file"):
        return BadUsage(
            f"context {choice.context}: {text.rstrip('/')}",
            remedy=f"repair {', '.join(str(p) for p in choice.files)}, or fetch a fresh kubeconfig",
        )
    return ApiUnauthorized(
        f"context {choice.context or 'in-cluster'}: cannot load its credentials: {text}",
        remedy="check the files and the plugin that its user in the kubeconfig names",
    )


class _Complaints(logging.Handler):
    """Collects what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _short(err: BaseException) -> str:
    """The innermost cause of a transport failure, in one line.

    Source: urllib3 puts a cause into `reason`, or after a text into `args`, and the name of its object before a text.
    """
    inner = err
    while causes := [c for c in (getattr(inner, "reason", None), *inner.args) if isinstance(c, BaseException)]:
        inner = causes[0]
    return _OBJECT.sub("", " ".join(str(inner).split()))[:256] or type(inner).__name__
