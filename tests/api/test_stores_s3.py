"""The contract of `tests/scenario/test_stores.py`, held to by an object store that a real S3 server is behind."""

import hashlib
import os
import signal
import socket
import threading
import time

import pytest

from lab import loopback, s3
from orchestrator.backup.stores import Stored, open_store
from orchestrator.errors import StoreError
from tests.fakes.sources import Eventful
from tests.scenario.test_stores import BIG, Contract, digest, names_in

pytestmark = pytest.mark.api

#: Long enough for a busy machine, and what a person still waits for.
PATIENCE_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3.running(tmp_path_factory.mktemp("s3") / "server") as made:
        yield made


@pytest.fixture
def cloud(server, monkeypatch):
    """The environment that a person has who uses the server."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    # Without credentials obstore asks the machine's cloud for some: let that be nobody.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://{loopback.ADDRESS}:9")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def bucket(server, cloud, request):
    """The directory of a bucket of the test's own."""
    return server.make_bucket("b" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20])


@pytest.fixture
def store(bucket):
    return open_store(f"s3://{bucket.name}/backups/of a/cluster", host=None)


@pytest.fixture
def there(bucket):
    place = bucket / "backups/of a/cluster"
    return lambda: names_in(place) if place.exists() else []


@pytest.fixture
def source(tmp_path):
    """More than one part of an upload."""
    path = tmp_path / "large"
    path.write_bytes(BIG * 3)
    return path


class TestS3(Contract):
    tells_room = False


def test_a_bucket_may_be_used_without_a_prefix(bucket):
    store = open_store(f"s3://{bucket.name}", host=None)

    store.put_bytes(b"x", "a.json")

    assert [f.name for f in store.names()] == names_in(bucket)[-1:] == ["a.json"]


def test_other_prefixes_are_not_listed(bucket):
    for prefix in ("a", "ab", "a/b"):
        open_store(f"s3://{bucket.name}/{prefix}", host=None).put_bytes(b"x", f"{prefix[-1]}.json")

    (file,) = open_store(f"s3://{bucket.name}/a/", host=None).names()

    assert isinstance(file, Stored)
    assert (file.name, file.size_bytes) == ("a.json", 1)


def test_more_files_than_a_page_are_all_listed(bucket):
    directory = bucket / "many"
    directory.mkdir()
    for n in range(2100):
        (directory / f"{n:04}.json").write_bytes(b"x")

    found = open_store(f"s3://{bucket.name}/many", host=None).names()

    assert [f.name for f in found] == [f"{n:04}.json" for n in range(2100)]


def test_an_upload_of_several_parts_is_whole(store, source, tmp_path):
    store.put(source, "a.db", digest(BIG * 3))
    store.get("a.db", tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == BIG * 3


def test_an_upload_that_is_interrupted_leaves_neither_object_nor_parts(server, store, source, there):
    killer = threading.Thread(target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGINT))
    began = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        store.put(in_the_middle(source, server, killer.start, goes_on=True), "a.db", digest(BIG * 3))
    killer.join()

    assert time.monotonic() - began < PATIENCE_S
    assert there() == []
    assert server.half_written() == []


def in_the_middle(source, server, act, **how):
    """The file, of which `act` sees some parts of the upload only."""
    return Eventful(source).doing(act, server.half_written, after_bytes=len(BIG) * 2, **how)


def test_the_part_of_an_object_that_another_replaced_meanwhile_is_not_taken(store, source):
    store.put(source, "a.db", digest(BIG * 3))
    pieces = store._pieces("a.db", store._there("a.db", None))
    next(pieces)
    store.put_bytes(bytes(len(BIG) * 3), "a.db")

    with pytest.raises(StoreError, match="PreconditionFailed"):
        next(pieces)


# ---- what goes wrong --------------------------------------------------------------------------------------------


def uses(store, source, tmp_path):
    return {
        "names": store.names,
        "put": lambda: store.put(source, "a.db", digest(BIG * 3)),
        "put_bytes": lambda: store.put_bytes(b"x", "a.json"),
        "get": lambda: store.get("a.db", tmp_path / "back"),
        "get_bytes": lambda: store.get_bytes("a.json"),
    }


def refused(store, source, tmp_path, only=("names", "put", "put_bytes", "get", "get_bytes")):
    """The errors of each use; all are of one line and say what to do."""
    errors = {}
    for name, use in uses(store, source, tmp_path).items():
        if name not in only:
            continue
        with pytest.raises(StoreError) as caught:
            use()
        said = f"{caught.value} {caught.value.remedy}"
        assert "\n" not in said
        assert "lab-secret" not in said
        assert len(str(caught.value)) < 500
        errors[name] = said
    assert "back" not in names_in(tmp_path)
    return errors


def test_a_bucket_that_is_not_there_is_named(cloud, source, tmp_path):
    store = open_store("s3://no-such-bucket/p", host=None)

    for said in refused(store, source, tmp_path, only=("names", "put", "put_bytes")).values():
        assert "no such bucket" in said


@pytest.mark.parametrize(
    ("name", "value"), [("AWS_SECRET_ACCESS_KEY", "not-this-one"), ("AWS_ACCESS_KEY_ID", "nobody")]
)
def test_wrong_credentials_are_said_to_be_wrong(bucket, cloud, source, tmp_path, name, value):
    cloud.setenv(name, value)
    store = open_store(f"s3://{bucket.name}", host=None)

    for said in refused(store, source, tmp_path, only=("names", "put_bytes")).values():
        assert "refuses" in said
        assert "AWS_SECRET_ACCESS_KEY" in said
        assert "not-this-one" not in said


def test_without_credentials_it_says_which_variables_to_set(bucket, cloud, source, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        cloud.delenv(name)
    store = open_store(f"s3://{bucket.name}", host=None)

    for said in refused(store, source, tmp_path).values():
        assert "no credentials were found" in said
        assert "set AWS_ACCESS_KEY_ID" in said


def test_a_server_where_nothing_listens_is_told_of_soon(cloud, source, tmp_path):
    cloud.setenv("AWS_ENDPOINT_URL", f"http://{loopback.ADDRESS}:9")
    store = open_store("s3://bucket/p", host=None)
    began = time.monotonic()

    for said in refused(store, source, tmp_path).values():
        assert "no connection to http://127.0.0.1:9" in said

    assert time.monotonic() - began < PATIENCE_S


def test_a_name_that_nobody_knows_is_told_of(cloud, source, tmp_path):
    store = open_store("s3://bucket/p?endpoint=https://no-such-host.invalid", host=None)

    for said in refused(store, source, tmp_path, only=("names", "put")).values():
        assert "no connection to https://no-such-host.invalid" in said


def test_a_server_that_says_nothing_is_given_up_within_a_minute(cloud, source, tmp_path):
    with socket.create_server((loopback.ADDRESS, 0)) as silent:
        cloud.setenv("AWS_ENDPOINT_URL", f"http://{loopback.ADDRESS}:{silent.getsockname()[1]}")
        store = open_store("s3://bucket/p", host=None)
        began = time.monotonic()

        (said,) = refused(store, source, tmp_path, only=("put",)).values()

    assert "does not answer in time" in said
    assert time.monotonic() - began < PATIENCE_S


def test_a_server_that_goes_away_in_the_middle_of_an_upload_is_told_of_soon(tmp_path, cloud, source):
    with s3.running(tmp_path / "own") as server:
        bucket = server.make_bucket("bucket")
        store = open_store(f"s3://bucket/p?endpoint={server.endpoint}", host=None)
        began = time.monotonic()
        with pytest.raises(StoreError, match=f"a.db cannot be written: no connection to {server.endpoint}"):
            store.put(in_the_middle(source, server, server.stop), "a.db", digest(BIG * 3))

    assert time.monotonic() - began < PATIENCE_S
    assert not (bucket / "p" / "a.db").exists()


def test_a_private_authority_is_trusted_when_it_is_given(tmp_path, cloud, source):
    with s3.running(tmp_path / "own", tls=True) as server:
        server.make_bucket("bucket")
        cloud.delenv("AWS_ENDPOINT_URL")
        unknown = open_store(f"s3://bucket/p?endpoint={server.endpoint}", host=None)
        known = open_store(f"s3://bucket/p?endpoint={server.endpoint}&ca={server.certificate}", host=None)

        (said,) = refused(unknown, source, tmp_path, only=("names",)).values()
        known.put(source, "a.db", digest(BIG * 3))

    assert f"no connection to {server.endpoint}: its certificate is not trusted (UnknownIssuer)" in said
