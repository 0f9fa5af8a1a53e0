"""The contract of `tests/scenario/test_stores.py`, held to by an object store that Azurite is behind."""

import hashlib
import os

import obstore
import pytest
from obstore.store import AzureStore

from lab import azure
from orchestrator.backup.stores import open_store
from tests.api.test_stores_s3 import refused
from tests.scenario.test_stores import BIG, Contract, digest

pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with azure.running(tmp_path_factory.mktemp("azure") / "server") as made:
        yield made


@pytest.fixture
def cloud(server, monkeypatch):
    """The environment that a person has who uses the server."""
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def container(server, cloud, request):
    """The name of a container of the test's own."""
    name = "c" + hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:20]
    server.make_container(name)
    return name


@pytest.fixture
def store(container):
    return open_store(f"az://{container}/backups/of a/cluster", host=None)


@pytest.fixture
def there(server, container):
    config = {"account_name": azure.ACCOUNT, "account_key": azure.KEY, "endpoint": server.endpoint}
    whole = AzureStore(container, config=config, client_options={"allow_http": True})

    def found():
        return sorted(each["path"].rpartition("/")[2] for page in obstore.list(whole) for each in page)

    return found


@pytest.fixture
def source(tmp_path):
    """More than one block of an upload."""
    path = tmp_path / "large"
    path.write_bytes(BIG * 3)
    return path


class TestAzure(Contract):
    tells_room = False


def test_an_upload_of_several_blocks_is_whole(store, source, tmp_path):
    store.put(source, "a.db", digest(BIG * 3))
    store.get("a.db", tmp_path / "back")

    assert (tmp_path / "back").read_bytes() == BIG * 3


def test_other_prefixes_are_not_listed(container):
    for prefix in ("a", "ab", "a/b"):
        open_store(f"az://{container}/{prefix}", host=None).put_bytes(b"x", f"{prefix[-1]}.json")

    assert [file.name for file in open_store(f"az://{container}/a/", host=None).names()] == ["a.json"]


def test_the_other_kind_of_url_is_the_same_place(server, container):
    open_store(f"az://{container}/p", host=None).put_bytes(b"x", "a.json")
    other = open_store(f"abfs://{container}@{azure.ACCOUNT}.dfs.core.windows.net/p", host=None)

    assert [file.name for file in other.names()] == ["a.json"]


def test_a_container_that_is_not_there_is_named(cloud, source, tmp_path):
    store = open_store("az://no-such-container/p", host=None)

    for said in refused(store, source, tmp_path, only=("names", "put", "put_bytes")).values():
        assert "no such container" in said


@pytest.mark.parametrize(
    ("name", "value"), [("AZURE_STORAGE_ACCOUNT_KEY", "bm90IHRoaXMgb25l"), ("AZURE_STORAGE_ACCOUNT_NAME", "nobody")]
)
def test_wrong_credentials_are_said_to_be_wrong(container, cloud, source, tmp_path, name, value):
    cloud.setenv(name, value)
    store = open_store(f"az://{container}", host=None)

    for said in refused(store, source, tmp_path, only=("names", "put_bytes")).values():
        assert "refuses" in said
        assert "AZURE_STORAGE_ACCOUNT_KEY" in said
        assert "bm90IHRoaXMgb25l" not in said


def test_without_an_account_it_says_which_variables_to_set(container, cloud, source, tmp_path):
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY"):
        cloud.delenv(name)
    store = open_store(f"az://{container}", host=None)

    for said in refused(store, source, tmp_path).values():
        assert "no credentials were found" in said
        assert "set AZURE_STORAGE_ACCOUNT_NAME" in said
