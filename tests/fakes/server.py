"""An API server on 127.0.0.1 that says what it was told to say, and remembers what it was asked.

A script stands for each method and path, without the query, or for all paths that begin so, with a star at the end; a
watch has the method WATCH. Replies are given in order,
the last one again and again. A request without a script is answered 404 and fails the test at its end.
"""

import json
import os
import queue
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator.kube.session import connect

#: Nothing waits longer than this for something that a test promised.
PATIENCE_S = 20.0


@dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    query: dict
    headers: dict
    body: object

    def __str__(self):
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes
    headers: dict = field(default_factory=dict)


class HangUp:
    """The connection ends without an answer."""


class Silence:
    """The request is taken and never answered."""


class Stream:
    """An answer that goes on: events are pushed while it is read, from any thread.

    Attributes:
        opened: Somebody reads it.
    """

    def __init__(self, *events):
        self.opened = threading.Event()
        self._lines = queue.Queue()
        for event in events:
            self.push(*event)

    def push(self, kind, obj):
        """One event of a watch."""
        self._lines.put(json.dumps({"type": kind, "object": obj}).encode() + b"\n")
        return self

    def push_raw(self, chunk):
        self._lines.put(chunk)
        return self

    def end(self):
        """The server ends the watch properly, as it does after `timeoutSeconds`."""
        self._lines.put(None)
        return self

    def cut(self):
        """The connection breaks in the middle of a chunk."""
        self._lines.put(ConnectionResetError)
        return self

    def chunks(self):
        self.opened.set()
        while (line := self._lines.get()) is not None:
            if line is ConnectionResetError:
                raise ConnectionResetError
            yield line


def ok(obj=None, **headers):
    """A success with an object of the API."""
    return Answer(200, json.dumps(obj or {}).encode(), _named(headers))


def said(status, message="", *, reason="", kind="", causes=(), **headers):
    """A failure with a Status. `causes` are pairs of reason and message."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason}
    details = {"kind": kind} if kind else {}
    if causes:
        details["causes"] = [{"reason": r, "message": m} for r, m in causes]
    return Answer(status, json.dumps({**body, "code": status, "details": details}).encode(), _named(headers))


def page(status, text, content_type="text/html"):
    """An answer that is no object of the API, such as a proxy's."""
    return Answer(status, text.encode(), {"Content-Type": content_type})


def _named(headers):
    return {name.replace("_", "-"): str(value) for name, value in headers.items()}


class ApiServer:
    """Runs between `with` and its end. May be taken down, and up again on the same port.

    Args:
        tls: A `tests.fakes.certificates.Certificates`, for HTTPS.

    Attributes:
        requests: Every request in the order in which it came.
        url: Where it listens.
    """

    def __init__(self, tls=None):
        self._tls = tls
        self._scripts = {}
        self._lock = threading.Condition()
        self._over = threading.Event()
        self._port = 0
        self._http = None
        self._sessions = []
        self._streams = []
        self.requests = []
        self.unexpected = []

    def __enter__(self):
        self.up()
        return self

    def __exit__(self, kind, err, trace):
        self.down()
        for session in self._sessions:
            session._pool.clear()
        if not kind and self.unexpected:
            raise AssertionError(f"requests without a script: {sorted(set(self.unexpected))}")

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    # ---- script and record --------------------------------------------------------------------------------------

    def on(self, method, path, *replies):
        """What to say. A reply may be a function of the request that gives the reply."""
        with self._lock:
            self._scripts[method, path] = list(replies)
        return self

    def asked(self, method="", path=""):
        """The requests so far, of that method and path if given."""
        with self._lock:
            return [r for r in self.requests if method in ("", r.method) and path in ("", r.path)]

    def order(self):
        """Method and path of each request so far, as `GET /readyz`."""
        return [str(r) for r in self.asked()]

    def changes(self):
        """The requests that were meant to change something."""
        return [r for r in self.asked() if r.method not in ("GET", "WATCH")]

    def wait_for(self, method, path, count=1):
        """Until so many such requests came."""

        def there():
            return len([r for r in self.requests if (r.method, r.path) == (method, path)]) >= count

        with self._lock:
            assert self._lock.wait_for(there, PATIENCE_S), f"no {method} {path}"

    def _reply(self, request):
        with self._lock:
            self.requests.append(request)
            self._lock.notify_all()
            script = self._script(request)
            if script is None:
                self.unexpected.append(str(request))
                return page(404, "404 page not found", "text/plain")
            reply = script.pop(0) if len(script) > 1 else script[0]
        reply = reply(request) if callable(reply) else reply
        if isinstance(reply, Stream):
            with self._lock:
                self._streams.append(reply)
        return reply

    def _script(self, request):
        """That of the path, or of the longest one with a star at its end that it begins with."""
        exact = self._scripts.get((request.method, request.path))
        begins = [
            path
            for method, path in self._scripts
            if method == request.method and path.endswith("*") and request.path.startswith(path[:-1])
        ]
        return exact or (self._scripts[request.method, max(begins, key=len)] if begins else None)

    # ---- connections --------------------------------------------------------------------------------------------

    def up(self):
        """Listen, on the same port as before."""
        self._over.clear()
        self._http = _Listener(("127.0.0.1", self._port), _Handler)
        self._http.stub = self
        self._port = self._http.server_address[1]
        if self._tls:
            self._http.tls = self._tls.context()
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def down(self):
        """Stop listening and break all connections."""
        if self._http is None:
            return
        self._over.set()
        with self._lock:
            streams, self._streams = self._streams, []
        for stream in streams:
            stream.end()
        self._http.shutdown()
        self._http.end_connections()
        self._http.server_close()
        self._http = None

    # ---- for clients --------------------------------------------------------------------------------------------

    def kubeconfig(self, directory, *, context="stub", user=None):
        """Writes a kubeconfig for this server and gives its path. `user` has the user's fields."""
        cluster = {"server": self.url}
        if self._tls:
            cluster["certificate-authority"] = str(self._tls.authority)
        path = directory / f"kubeconfig-{context}"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": context,
                    "clusters": [{"name": f"{context}-cluster", "cluster": cluster}],
                    "users": [{"name": f"{context}-user", "user": {"token": "secret"} if user is None else user}],
                    "contexts": [
                        {"name": context, "context": {"cluster": f"{context}-cluster", "user": f"{context}-user"}}
                    ],
                }
            )
        )
        os.chmod(path, 0o600)  # noqa: PTH101
        return path

    def session(self, directory, **kubeconfig):
        """A session with this server; its connections are closed at the end."""
        session = connect(str(self.kubeconfig(directory, **kubeconfig)), None)
        self._sessions.append(session)
        return session


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def answer(self):
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else None
        method = "WATCH" if query.get("watch") == "1" else self.command
        request = Request(method, unquote(parts.path), query, dict(self.headers), body)
        try:
            self.give(self.server.stub._reply(request))
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  http.server's names

    def give(self, reply):
        match reply:
            case HangUp():
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            case Silence():
                self.server.stub._over.wait()
                self.close_connection = True
            case Stream():
                self.stream(reply)
            case Answer():
                self.send_response_only(reply.status)
                usual = {"Content-Type": "application/json", "Date": self.date_time_string()}
                for name, value in {**usual, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)
                self.wfile.flush()

    def stream(self, reply):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        try:
            for chunk in reply.chunks():
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        except ConnectionResetError:
            self.wfile.write(b"ff\r\n{")
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *args):
        """Tests look at `requests`."""


class _Listener(ThreadingHTTPServer):
    """Knows its connections, so that it can end them."""

    daemon_threads = True
    tls = stub = None

    def __init__(self, *args):
        self._connections = []
        super().__init__(*args)

    def process_request_thread(self, request, client_address):
        """In the connection's own thread, so that a handshake that fails holds up nobody."""
        try:
            if self.tls:
                request = self.tls.wrap_socket(request, server_side=True)
        except OSError:
            request.close()
            return
        self._connections.append(request)
        super().process_request_thread(request, client_address)

    def handle_error(self, request, client_address):
        """A client that went away is what many tests are about."""

    def end_connections(self):
        for connection in self._connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
