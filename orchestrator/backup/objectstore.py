"""Snapshots in an object store: S3 and what speaks its protocol, Google's, Azure's.

obstore is used as it is, and not through its file system for fsspec: that one completes the upload of a file whose
writer failed half-way, and holds a file that is fetched in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qsl, urlsplit

from orchestrator.backup.stores import (
    RECORD_BYTES,
    Stored,
    arriving,
    checked,
    differs,
    missing,
    pieces_of,
    plain,
    size_of,
    too_large,
)
from orchestrator.errors import BadUsage, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore import GetOptions, ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, RetryConfig, S3Config
    from obstore.store import ObjectStore as Bucket

#: Of an upload, and of a download. S3 takes 10,000 parts at most, of 5 MiB at least but for the last.
#: Source: Amazon S3 User Guide, "Amazon S3 multipart upload limits".
PART_BYTES = 8 << 20
UPLOADS = 4
#: A connection, and a whole request: short ones for questions, so that a server that says nothing is noticed before a
#: file is sent, long ones for parts of files.
CONNECT_S = 5
QUESTION_S = 12
TRANSFER_S = 120
RETRIES = 2
#: After this long no more of them are begun.
RETRY_S = 20

_SETTINGS = {
    "s3": ("endpoint", "region", "allow_http", "ca"),
    "gs": ("endpoint", "allow_http", "ca"),
    "az": ("endpoint", "allow_http", "ca"),
}
#: What obstore calls an endpoint, and the variables that it takes one from.
_ENDPOINTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "s3": ("endpoint", ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")),
    "gs": ("base_url", ("GOOGLE_BASE_URL",)),
    "az": ("endpoint", ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")),
}
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, and AWS_REGION if it has one",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS in the environment to the file with the key of a service account",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY in the environment",
}
#: Where machines of a cloud are given credentials: what is asked when there are none in the environment.
#: Source: obstore 0.12, by what its errors name: EC2, ECS and EKS, Google's, Azure's.
_METADATA = (
    "/latest/api/token",
    "/latest/meta-data",
    "//169.254.",
    "/computeMetadata/",
    "/metadata/identity",
    "MissingAccount",
    "Account must be specified",
)


class ObjectStore:
    """A prefix of a bucket. Credentials are taken from the variables that the cloud's own tools read.

    Args:
        url: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` or
            `abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX`, with any of `?endpoint=URL`, `&region=NAME`,
            `&ca=FILE` (PEM, trusted too) and `&allow_http=true`.

    Raises:
        BadUsage: It cannot be meant, or would send backups in the clear over a network.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = url
        self._cloud = "az" if parts.scheme == "abfs" else parts.scheme
        if not parts.netloc or parts.fragment:
            raise BadUsage(f"{url} names no bucket", remedy=f"write {parts.scheme}://BUCKET/PREFIX")
        self._place = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._settings = _settings(url, self._cloud, parts.query)
        self._endpoint = _endpoint(self._cloud, self._settings)
        self._in_clear = _in_clear(url, self._endpoint, self._settings)
        self._certificates = _certificates(self._settings)
        self._buckets: dict[int, Bucket] = {}

    @property
    def url(self) -> str:
        """Where it is."""
        return self._url

    def names(self) -> tuple[Stored, ...]:
        """Its files by name."""
        from obstore import list_with_delimiter  # noqa: PLC0415

        with self._explained("it cannot be listed"):
            found = list_with_delimiter(self._bucket(QUESTION_S))["objects"]
        return tuple(sorted((_stored(each) for each in found if plain(each["path"])), key=lambda file: file.name))

    def put(self, source: Path, name: str, sha256: str) -> None:
        """Copy a file there.

        Source: Amazon S3 User Guide, "Uploading and copying objects using multipart upload": the object appears when
        the upload is completed. obstore aborts it when the iterator of its parts fails.
        """
        from obstore import put  # noqa: PLC0415

        size_of(source)
        self._found(checked(name, self.url))  # a server that is not there says so now
        # An iterator, and no path: it is asked for each part by this thread, which can be interrupted there.
        parts = pieces_of(source, PART_BYTES)
        with self._explained(f"{name} cannot be written"), contextlib.closing(parts):
            put(self._bucket(TRANSFER_S), name, parts, chunk_size=PART_BYTES, max_concurrency=UPLOADS)
        self._prove(name, sha256)

    def put_bytes(self, content: bytes, name: str) -> None:
        """Write a small file there."""
        from obstore import put  # noqa: PLC0415

        with self._explained(f"{name} cannot be written"):
            put(self._bucket(QUESTION_S), checked(name, self.url), content, use_multipart=False)
        self._prove(name, hashlib.sha256(content).hexdigest())

    def get(self, name: str, target: Path, *, limit_bytes: int | None = None) -> None:
        """Copy a file from there."""
        there = self._there(name, limit_bytes)
        with arriving(target) as write:
            for piece in self._pieces(name, there):
                write(piece)

    def get_bytes(self, name: str, limit_bytes: int = RECORD_BYTES) -> bytes:
        """The contents of a small file."""
        return b"".join(self._pieces(name, self._there(name, limit_bytes)))

    def remove(self, name: str) -> None:
        """Take a file away."""
        from obstore import delete  # noqa: PLC0415

        with self._explained(f"{checked(name, self.url)} cannot be removed"), contextlib.suppress(FileNotFoundError):
            delete(self._bucket(QUESTION_S), name)

    def free_bytes(self) -> int | None:
        """Not known."""
        return None

    def tidy(self, older_than_s: float, now: float) -> tuple[str, ...]:
        """Nothing: no half-written object is ever seen here.

        The parts of an upload whose run was killed are kept by the store, and cost, until a rule for the life of
        incomplete uploads removes them. Source: Amazon S3 User Guide, "Configuring a bucket lifecycle configuration to
        delete incomplete multipart uploads".
        """
        del older_than_s, now
        return ()

    def _prove(self, name: str, sha256: str) -> None:
        """Read it back; what is not what was sent is removed."""
        found = hashlib.sha256()
        for piece in self._pieces(name, self._there(name, None)):
            found.update(piece)
        if found.hexdigest() != sha256:
            self.remove(name)
            raise differs(self.url, name, found.hexdigest(), sha256)

    def _there(self, name: str, limit_bytes: int | None) -> ObjectMeta:
        found = self._found(checked(name, self.url))
        if found is None:
            raise missing(self.url, name)
        if limit_bytes is not None and found["size"] > limit_bytes:
            raise too_large(self.url, name, limit_bytes)
        return found

    def _found(self, name: str) -> ObjectMeta | None:
        from obstore import head  # noqa: PLC0415

        with self._explained(f"{name} cannot be looked for"):
            try:
                return head(self._bucket(QUESTION_S), name)
            except FileNotFoundError:
                return None

    def _pieces(self, name: str, there: ObjectMeta) -> Iterator[bytes]:
        """An object, part by part, each a request of its own: no request lasts as long as a large file does."""
        from obstore import get  # noqa: PLC0415

        for start in range(0, there["size"], PART_BYTES):
            span = (start, min(start + PART_BYTES, there["size"]))
            with self._explained(f"{name} cannot be read"):
                options: GetOptions = {"range": span}
                if there["e_tag"]:
                    options["if_match"] = there["e_tag"]  # another object under this name is not mixed with it
                piece = bytes(get(self._bucket(TRANSFER_S), name, options=options).bytes())
            if len(piece) != span[1] - span[0]:
                raise StoreError(f"{self.url}: {name} ended at byte {span[0] + len(piece)}", remedy="repeat")
            yield piece

    def _bucket(self, timeout_s: int) -> Bucket:
        """The bucket by a client whose requests end by then."""
        if timeout_s not in self._buckets:
            with self._explained("it cannot be used"):
                self._buckets[timeout_s] = self._open(timeout_s)
        return self._buckets[timeout_s]

    def _open(self, timeout_s: int) -> Bucket:
        from obstore.store import from_url  # noqa: PLC0415

        client: ClientConfig = {
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=timeout_s),
            "allow_http": self._in_clear,
        }
        if self._certificates:
            client["root_certificate"] = self._certificates
        backoff = {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=2), "base": 2}
        retry = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S), "backoff": backoff}
        config = {"region": self._settings["region"]} if "region" in self._settings else {}
        if "endpoint" in self._settings:
            config[_ENDPOINTS[self._cloud][0]] = self._settings["endpoint"]
        with_retries = cast("RetryConfig", retry)
        if self._cloud == "s3":
            return from_url(
                self._place, config=cast("S3Config", config), client_options=client, retry_config=with_retries
            )
        if self._cloud == "gs":
            return from_url(
                self._place, config=cast("GCSConfig", config), client_options=client, retry_config=with_retries
            )
        return from_url(
            self._place, config=cast("AzureConfig", config), client_options=client, retry_config=with_retries
        )

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns what obstore raises into one line for people."""
        from obstore.exceptions import BaseError  # noqa: PLC0415

        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as err:
            why, remedy = explain(str(err), self._cloud)
            raise StoreError(f"{self.url}: {what}: {why}", remedy=remedy) from None  # its text is pages long


def explain(text: str, cloud: str) -> tuple[str, str]:
    """Why a request failed, in one line without secrets, and what to do about it.

    Args:
        text: Of an error of obstore: a line, the store's answer in XML, and the error as Rust shows it.
        cloud: `s3`, `gs` or `az`.
    """
    first, _, inner = text.partition("\n\nDebug source:")
    server = match[0] if (match := re.search(r"https?://[^/\s?\")]+", first)) else "the store"
    code, said = _tag(first, "Code"), _tag(first, "Message")
    if code in ("NoSuchBucket", "ContainerNotFound") or "bucket does not exist" in first:
        place = "container" if cloud == "az" else "bucket"
        return f"there is no such {place} at {server}", f"make the {place}, or correct its name"
    if any(each in text for each in _METADATA):
        return "no credentials were found, in the environment or of this machine", _CREDENTIALS[cloud]
    if code:
        remedy = _CREDENTIALS[cloud] if re.search(r"AccessKey|Signature|Token|Denied|Auth|User", code) else _REPEAT
        return f"{server} refuses: {code}: {' '.join(said.split())[:200]}", remedy
    if status := re.search(r"\b(401 Unauthorized|403 Forbidden)\b", first):
        return f"{server} refuses: {status[1]}", f"check the rights of the credentials: {_CREDENTIALS[cloud]}"
    if why := _no_connection(first, inner):
        return f"no connection to {server}: {why}", f"check the endpoint, and the network to it: curl -v {server}"
    return re.sub(r"\?\S*", "", " ".join(first.split()))[:256], _REPEAT


def _no_connection(first: str, inner: str) -> str:
    """Why there was none, in words; "" when there was one."""
    if found := re.search(r"InvalidCertificate\(\s*(\w+)", inner):
        return f"its certificate is not trusted ({found[1]}); give the authority's by ca=FILE"
    return next((why for mark, why in _NO_ANSWER.items() if mark in inner or mark in first), "")


_REPEAT = "correct what the store complains of, then repeat"
#: What the innermost errors of a connection look like -> what they mean. The first that is found counts.
_NO_ANSWER = {
    "dns error": "its name is not known",
    "Connection refused": "nothing listens there",
    "TimedOut": "it does not answer in time",
    "timed out": "it does not answer in time",
    "unreachable": "there is no route to it",
    "error sending request": "the connection broke",
}


def _tag(xml: str, name: str) -> str:
    return match[1] if (match := re.search(rf"<{name}>([^<]*)</{name}>", xml)) else ""


def _stored(found: ObjectMeta) -> Stored:
    return Stored(found["path"], found["size"], found["last_modified"].timestamp())


def _settings(url: str, cloud: str, query: str) -> dict[str, str]:
    found = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(set(found) - set(_SETTINGS[cloud])):
        raise BadUsage(
            f"{url.partition('?')[0]} has settings that are not known: {', '.join(unknown)}",
            remedy=f"use only {', '.join(_SETTINGS[cloud])}; credentials belong into the environment",
        )
    if found.get("allow_http", "true") not in ("true", "false"):
        raise BadUsage(f"{url}: allow_http is neither true nor false", remedy="write allow_http=true")
    return found


def _endpoint(cloud: str, settings: Mapping[str, str]) -> str:
    """The URL of the server; "" for the cloud's own."""
    variables = _ENDPOINTS[cloud][1]
    return settings.get("endpoint") or next((os.environ[name] for name in variables if os.environ.get(name)), "")


def _in_clear(url: str, endpoint: str, settings: Mapping[str, str]) -> bool:
    """Whether requests go there without TLS."""
    if not endpoint:
        return False
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadUsage("the endpoint of the object store is no URL", remedy="write endpoint=https://HOST:PORT")
    if parts.username or parts.password or parts.query:
        raise BadUsage(
            "the endpoint of the object store must not hold credentials", remedy="write endpoint=https://HOST:PORT"
        )
    if parts.scheme == "https":
        return False
    if settings.get("allow_http") != "true" and not _loopback(parts.hostname):
        raise BadUsage(
            f"{url}: backups would cross the network to {parts.hostname} in the clear",
            remedy="use an https:// endpoint, or add allow_http=true to the destination where that is meant",
        )
    return True


def _loopback(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"


def _certificates(settings: Mapping[str, str]) -> bytes:
    if "ca" not in settings:
        return b""
    try:
        return Path(settings["ca"]).read_bytes()
    except OSError as err:
        raise BadUsage(
            f"the certificates of {settings['ca']} cannot be read: {err.strerror}", remedy="give a PEM file: ca=FILE"
        ) from err
