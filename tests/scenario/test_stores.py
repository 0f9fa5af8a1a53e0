"""Destinations of backups: one contract, for a directory and for another machine; `tests/api` has an object store."""

import hashlib
import os
import resource
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.backup import stores
from orchestrator.backup.directory import DirectoryStore
from orchestrator.backup.objectstore import ObjectStore, explain
from orchestrator.backup.sftp import AccountStore
from orchestrator.backup.stores import HostStore, Stored, open_store, parent
from orchestrator.errors import BadUsage, HostError, StoreError
from tests.fakes.hosts import HereAsRoot, local, machine

#: More than one part of an upload, and of no round size.
BIG = b"".join(hashlib.sha512(str(n).encode()).digest() for n in range(150_000))
DAY_S = 86_400.0


def digest(content):
    return hashlib.sha256(content).hexdigest()


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


class Contract:
    """What every store does; those with a `store` inherit it. `there` lists what is behind it, hidden files too."""

    #: Its disk is one that can be asked for its room.
    tells_room = True

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "source"
        path.write_bytes(BIG)
        return path

    @pytest.fixture
    def target(self, tmp_path):
        (tmp_path / "targets").mkdir()
        return tmp_path / "targets" / "target"

    def test_there_is_nothing_in_a_store_that_was_never_used(self, store):
        assert store.names() == ()
        assert store.tidy(0, 9e9) == ()

    def test_what_was_put_is_got(self, store, source, target):
        store.put(source, "a.db", digest(BIG))
        store.get("a.db", target)

        assert target.read_bytes() == BIG
        assert target.stat().st_mode & 0o777 == 0o600
        assert names_in(target.parent) == ["target"]

    def test_files_are_listed_by_name_with_size_and_time(self, store, source, there):
        store.put_bytes(b"{}", "b.json")
        store.put(source, "a.db", digest(BIG))

        first, second = store.names()

        assert [(f.name, f.size_bytes) for f in (first, second)] == [("a.db", len(BIG)), ("b.json", 2)]
        assert abs(first.modified - second.modified) < 600
        assert there() == ["a.db", "b.json"]

    def test_a_small_file_is_written_replaced_and_read(self, store):
        store.put_bytes(b"old", "a.json")
        store.put_bytes(b"new", "a.json")

        assert store.get_bytes("a.json") == b"new"
        assert [f.name for f in store.names()] == ["a.json"]

    def test_a_file_replaces_what_had_its_name(self, store, source):
        store.put_bytes(b"old", "a.db")

        store.put(source, "a.db", digest(BIG))

        assert store.get_bytes("a.db", len(BIG)) == BIG

    @pytest.mark.parametrize("content", [b"", b"x"])
    def test_files_may_be_as_small_as_nothing(self, store, tmp_path, target, content):
        (tmp_path / "small").write_bytes(content)

        store.put(tmp_path / "small", "a", digest(content))
        store.get("a", target)

        assert (target.read_bytes(), store.get_bytes("a")) == (content, content)

    @pytest.mark.parametrize("name", ["it's two  words", "-n", "$(id)*", "ä.db", "a%20b", "a+b", "#1?x=y&z"])
    def test_a_file_may_have_any_plain_name(self, store, name):
        store.put_bytes(b"x", name)

        assert [f.name for f in store.names()] == [name]
        assert store.get_bytes(name) == b"x"

    @pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../a", "a\nb", "a\0b", "/etc/passwd"])
    def test_other_names_are_refused_everywhere(self, store, source, target, name):
        uses = [
            lambda: store.put(source, name, digest(BIG)),
            lambda: store.put_bytes(b"", name),
            lambda: store.get(name, target),
            lambda: store.get_bytes(name),
            lambda: store.remove(name),
        ]

        for use in uses:
            with pytest.raises(StoreError, match="no plain name"):
                use()

    def test_what_is_read_back_differently_is_an_error_and_is_removed(self, store, source, there):
        with pytest.raises(StoreError, match=r"a.db was read back and is not what was to be stored"):
            store.put(source, "a.db", digest(b"something else"))

        assert there() == []

    def test_a_source_that_is_not_there_is_an_error_and_leaves_nothing(self, store, tmp_path, there):
        with pytest.raises(StoreError, match="no-such-file cannot be read: No such file"):
            store.put(tmp_path / "no-such-file", "a.db", digest(b""))

        assert there() == []

    def test_a_file_that_is_not_there_is_missing_and_leaves_nothing(self, store, target):
        for use in (lambda: store.get("a.db", target), lambda: store.get_bytes("a.db")):
            with pytest.raises(StoreError, match=r"there is no a.db"):
                use()

        assert names_in(target.parent) == []

    def test_a_file_that_is_removed_is_gone_and_may_be_removed_again(self, store):
        store.put_bytes(b"x", "a.db")

        store.remove("a.db")
        store.remove("a.db")

        assert store.names() == ()

    def test_a_file_that_is_larger_than_expected_is_not_fetched(self, store, source, target):
        store.put(source, "a.db", digest(BIG))

        with pytest.raises(StoreError, match=f"larger than {len(BIG) - 1} bytes"):
            store.get("a.db", target, limit_bytes=len(BIG) - 1)
        with pytest.raises(StoreError, match="larger than 1048576 bytes"):
            store.get_bytes("a.db")

        assert names_in(target.parent) == []
        store.get("a.db", target, limit_bytes=len(BIG))
        assert target.stat().st_size == len(BIG)

    def test_what_is_at_the_target_is_replaced_when_the_file_has_arrived(self, store, target):
        store.put_bytes(b"new", "a.db")
        target.write_bytes(b"old")
        target.chmod(0o644)

        store.get("a.db", target)

        assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o600)

    def test_a_target_that_cannot_be_written_is_named(self, store, tmp_path):
        store.put_bytes(b"x", "a.db")

        with pytest.raises(StoreError, match="nowhere/target cannot be written: No such file"):
            store.get("a.db", tmp_path / "nowhere" / "target")

    def test_free_room_is_a_number_where_there_is_a_disk(self, store):
        free = store.free_bytes()

        assert (free > 0) if self.tells_room else free is None

    def test_a_store_may_be_used_by_several_threads(self, store):
        names = [f"{n}.json" for n in range(6)]
        threads = [threading.Thread(target=store.put_bytes, args=(name.encode(), name)) for name in names]

        for each in threads:
            each.start()
        for each in threads:
            each.join()

        assert [store.get_bytes(f.name).decode() for f in store.names()] == names


class Disks(Contract):
    """What stores over a disk do besides."""

    def test_its_directories_and_files_are_for_nobody_else(self, store, place):
        store.put_bytes(b"x", "a.json")

        assert [p.stat().st_mode & 0o777 for p in (place.parent, place, place / "a.json")] == [0o700, 0o700, 0o600]

    def test_only_plain_files_are_listed(self, store, place):
        store.put_bytes(b"x", "a.json")
        (place / "directory").mkdir()
        (place / "link").symlink_to("a.json")
        (place / ".hidden").write_bytes(b"")
        (place / f".b.db.part-{'0' * 16}").write_bytes(b"")

        assert [f.name for f in store.names()] == ["a.json"]

    def test_a_link_in_the_way_is_replaced_and_not_followed(self, store, place, tmp_path):
        store.put_bytes(b"x", "first.json")
        (tmp_path / "precious").write_bytes(b"mine")
        (tmp_path / "elsewhere").mkdir()
        (place / "a.json").symlink_to(tmp_path / "precious")
        (place / "b.json").symlink_to(tmp_path / "elsewhere")

        store.put_bytes(b"new", "a.json")
        store.put_bytes(b"new", "b.json")

        assert [f.name for f in store.names()] == ["a.json", "b.json", "first.json"]
        assert (tmp_path / "precious").read_bytes() == b"mine"
        assert names_in(tmp_path / "elsewhere") == []

    def test_a_link_is_not_read(self, store, place, tmp_path, target):
        store.put_bytes(b"x", "a.json")
        (place / "link").symlink_to("a.json")

        for use in (lambda: store.get_bytes("link"), lambda: store.get("link", target)):
            with pytest.raises(StoreError, match="link"):
                use()

    def test_a_directory_in_the_way_is_an_error_and_leaves_nothing(self, store, place, there):
        store.put_bytes(b"x", "a.json")
        (place / "b.json").mkdir()

        with pytest.raises(StoreError, match=r"b.json.*director"):
            store.put_bytes(b"new", "b.json")

        assert there() == ["a.json", "b.json"]
        assert names_in(place / "b.json") == []

    def test_a_file_in_place_of_the_directory_is_an_error(self, store, place, target):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"mine")

        for use in (store.names, lambda: store.put_bytes(b"x", "a"), lambda: store.get("a", target)):
            with pytest.raises(StoreError):
                use()

        assert place.read_bytes() == b"mine"

    def test_what_killed_runs_left_is_tidied_away_and_nothing_else(self, store, place, there):
        store.put_bytes(b"x", "a.json")
        names = {
            "old": f".b.db.part-{'0' * 16}",
            "young": f".c.db.part-{'1' * 16}",
            "foreign": ".d.db.part",
            "other": f".e.db.part-{'g' * 16}",
        }
        for kind, name in names.items():
            (place / name).write_bytes(b"half")
            os.utime(place / name, (1e9, 1e9) if kind != "young" else (1e9 + DAY_S, 1e9 + DAY_S))
        os.utime(place / "a.json", (1e9, 1e9))

        gone = store.tidy(DAY_S, 1e9 + DAY_S)

        assert gone == (names["old"],)
        assert there() == sorted([names["young"], names["foreign"], names["other"], "a.json"])

    def test_modification_times_are_those_of_the_files(self, store, place):
        store.put_bytes(b"x", "a.json")
        os.utime(place / "a.json", (1e9, 1e9))

        assert store.names() == (Stored("a.json", 1, 1e9),)


@pytest.fixture
def place(tmp_path):
    """The store's directory, which is not there yet, nor is the one above it."""
    return tmp_path / "above" / "store"


@pytest.fixture
def there(place):
    return lambda: names_in(place) if place.exists() else []


class TestDirectory(Disks):
    @pytest.fixture
    def store(self, place):
        return DirectoryStore(place)


class TestHost(Disks):
    @pytest.fixture
    def store(self, place):
        return HostStore(local(), str(place), f"sftp://backup@vault{place}")


class TestHostAsRoot(Disks):
    @pytest.fixture
    def store(self, place):
        return HostStore(local(), str(place), f"n1:{place}", sudo=True)


class TestHostWithoutSha256sum(Contract):
    """One that cannot count what was written: it is fetched and counted here."""

    @pytest.fixture
    def store(self, place):
        return HostStore(machine(Lacking("sha256sum")), str(place), "n1:/there")


class Lacking(HereAsRoot):
    """This machine, without one of its tools."""

    def __init__(self, tool):
        self.tool = tool

    def execute(self, argv, **how):
        return super().execute([word.replace(self.tool, "no-such-tool") for word in argv], **how)


class Broken(HereAsRoot):
    """This machine, where a script that holds a word does something else instead."""

    def __init__(self, word, instead):
        self.word, self.instead = word, instead

    def execute(self, argv, **how):
        return super().execute([self.instead if self.word in word else word for word in argv], **how)


@contextmanager
def small_disk(size_bytes):
    """Files of this process, and of those that it starts, cannot grow beyond a size meanwhile."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(BIG)
    return path


def test_a_disk_that_is_full_is_told_with_what_is_needed_and_nothing_is_left(place, source, there):
    store = DirectoryStore(place)

    with small_disk(1_000_000), pytest.raises(StoreError, match=rf"a.db needs {len(BIG)} bytes, and \d+ are free"):
        store.put(source, "a.db", digest(BIG))

    assert there() == []


def test_a_disk_that_is_full_on_another_machine_is_told_and_nothing_is_left(place, source, there):
    store = HostStore(local(), str(place), "sftp://vault/store")

    with small_disk(1_000_000), pytest.raises(StoreError, match=rf"a.db \({len(BIG)} bytes\) cannot be written"):
        store.put(source, "a.db", digest(BIG))

    assert there() == []


def test_a_full_disk_keeps_what_had_the_name(place, source):
    store = DirectoryStore(place)
    store.put_bytes(b"old", "a.db")

    with small_disk(1_000_000), pytest.raises(StoreError):
        store.put(source, "a.db", digest(BIG))

    assert store.get_bytes("a.db") == b"old"


def test_a_full_disk_here_is_told_when_a_file_is_fetched(place, source, tmp_path):
    store = DirectoryStore(place)
    store.put(source, "a.db", digest(BIG))

    with small_disk(1_000_000), pytest.raises(StoreError, match=r"target cannot be written: File too large"):
        store.get("a.db", tmp_path / "target")

    assert not [p for p in tmp_path.iterdir() if "target" in p.name]


def test_a_directory_where_nobody_may_write_is_an_error():
    with pytest.raises(StoreError, match=r"^/proc/1/no-such: a.json cannot be written"):
        DirectoryStore(Path("/proc/1/no-such")).put_bytes(b"x", "a.json")


def test_what_a_host_says_of_a_failure_is_passed_on_with_where_to_look(place):
    store = HostStore(machine(Broken("mkdir", "echo the disk is on fire >&2; exit 5")), str(place), "n1:/there")

    with pytest.raises(
        StoreError, match=r"^n1:/there: a.json \(1 bytes\) cannot be written: the disk is on fire"
    ) as caught:
        store.put_bytes(b"x", "a.json")

    assert caught.value.remedy.startswith("look at it on node-1: ls -ld ")


def test_a_host_that_damages_what_it_is_given_is_found_out(place, there):
    store = HostStore(machine(Broken("set -C", 'cd "$1" && echo other > "$2"')), str(place), "n1:/there")
    place.mkdir(parents=True)

    with pytest.raises(StoreError, match="read back and is not"):
        store.put_bytes(b"x", "a.json")

    assert there() == []


class Lost(HereAsRoot):
    """The connection breaks at a command."""

    def __init__(self, word):
        self.word = word

    def execute(self, argv, **how):
        if any(self.word in word for word in argv):
            raise HostError("the connection broke", remedy="look at it")
        return super().execute(argv, **how)


def test_a_connection_that_breaks_is_the_hosts_error_and_the_half_written_file_is_removed(place, there):
    store = HostStore(machine(Lost("mv -f")), str(place), "n1:/there")

    with pytest.raises(HostError, match="the connection broke"):
        store.put_bytes(b"x", "a.json")

    assert there() == []


def test_a_file_that_could_not_be_removed_because_the_connection_is_gone_is_found_by_tidy(place):
    broken = HostStore(machine(Lost('rm -f -- "$@"')), str(place), "n1:/there")
    with pytest.raises(StoreError, match="read back"):
        broken._put(b"x", 1, "a.json", digest(b"y"))

    gone = HostStore(local(), str(place), "n1:/there").tidy(0, 9e9)

    assert len(gone) == 1
    assert gone[0].startswith(".a.json.part-")


def test_a_host_without_df_does_not_tell_its_room(place):
    assert HostStore(machine(Lacking("df -P")), str(place), "n1:/there").free_bytes() is None


# ---- what a person writes ---------------------------------------------------------------------------------------


class Asked:
    """Makes hosts, and remembers for whom."""

    def __init__(self):
        self.names = []

    def __call__(self, name):
        self.names.append(name)
        return local()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("/var/backups", "/var/backups"),
        ("/var/backups/", "/var/backups"),
        ("file:///var/back%20ups", "/var/back ups"),
        ("file://localhost/var", "/var"),
        ("./n1:x", "{here}/n1:x"),
        ("backups", "{here}/backups"),
        ("~/backups", "{home}/backups"),
    ],
)
def test_a_directory_is_one(tmp_path, monkeypatch, text, url):
    monkeypatch.chdir(tmp_path)

    store = open_store(text, host=None)

    assert isinstance(store, DirectoryStore)
    assert store.url == url.format(here=tmp_path, home=Path.home())


@pytest.mark.parametrize(
    ("text", "asked", "directory", "sudo"),
    [
        ("sftp://vault/srv/backups", "sftp://vault", "/srv/backups", False),
        ("sftp://me@vault:2222/srv/two%20words/", "sftp://me@vault:2222", "/srv/two words", False),
        ("sftp://vault/~/backups", "sftp://vault", "./backups", False),
        ("sftp://[::1]:22/srv", "sftp://[::1]:22", "/srv", False),
        ("node:/var/backups", "node", "/var/backups", True),
        ("n1.example.org:/var/backups", "n1.example.org", "/var/backups", True),
    ],
)
def test_another_machine_is_asked_for_by_name(text, asked, directory, sudo):
    host = Asked()

    store = open_store(text, host=host)
    chosen = store.chosen if isinstance(store, AccountStore) else store

    assert isinstance(chosen, HostStore)
    assert (host.names, chosen._directory, chosen._sudo, store.url) == ([asked], directory, sudo, text)


@pytest.mark.parametrize("text", ["s3://b", "s3://b/p/", "gs://b/p", "az://c/p", "abfs://c@acc.dfs.core.windows.net/p"])
def test_an_object_store_is_one(text):
    store = open_store(text, host=None)

    assert isinstance(store, ObjectStore)
    assert store.url == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "without a name"),
        ("  ", "without a name"),
        ("a\nb", "without a name"),
        ("ftp://h/d", "kind ftp:// are not known"),
        ("https://h/d", "kind https:// are not known"),
        ("file://other/d", "no directory of this machine"),
        ("file:///", "no directory of this machine"),
        ("sftp://vault", "no directory of a host"),
        ("sftp://vault/", "no directory of a host"),
        ("sftp:///srv", "no directory of a host"),
        ("sftp://vault:0/srv", "no port"),
        ("sftp://vault:ssh/srv", "no port"),
        ("sftp://vault/srv", "cannot be reached from here"),
        ("n1:/srv", "cannot be reached from here"),
        ("n1:srv", "neither a directory of a node nor a URL"),
        ("n1:/", "neither a directory of a node nor a URL"),
        ("s3:///p", "names no bucket"),
        ("s3://b/p?colour=red", "not known: colour"),
        ("gs://b/p?region=x", "not known: region"),
        ("s3://b/p?allow_http=yes", "neither true nor false"),
        ("s3://b?endpoint=minio:9000", "no URL"),
        ("s3://b?ca=/no/such/file", "cannot be read: No such file"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(text, said):
    with pytest.raises(BadUsage, match=said) as caught:
        open_store(text, host=None)

    assert caught.value.remedy


@pytest.mark.parametrize(
    "text",
    [
        "s3://key:hunter2@b/p",
        "s3://hunter2@b/p",
        "gs://hunter2@b/p",
        "az://c:hunter2@acc/p",
        "sftp://me:hunter2@vault/srv",
        "s3://b/p?secret_access_key=hunter2",
        "s3://b/p?endpoint=https://me:hunter2@minio",
    ],
)
def test_credentials_in_a_destination_are_refused_and_not_repeated(text):
    with pytest.raises(BadUsage) as caught:
        open_store(text, host=Asked())

    assert "hunter2" not in f"{caught.value} {caught.value.remedy}"


@pytest.mark.parametrize("endpoint", ["http://minio:9000", "http://10.0.0.1", "http://127.0.0.1.example.org"])
def test_backups_do_not_cross_a_network_in_the_clear_unless_that_is_meant(endpoint, monkeypatch):
    with pytest.raises(BadUsage, match="in the clear"):
        open_store(f"s3://b/p?endpoint={endpoint}", host=None)
    assert open_store(f"s3://b/p?endpoint={endpoint}&allow_http=true", host=None)

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(BadUsage, match="in the clear"):
        open_store("s3://b/p", host=None)


@pytest.mark.parametrize("endpoint", ["http://localhost:1", "http://127.0.0.1", "http://[::1]:9", "https://minio"])
def test_loopback_needs_no_tls(endpoint):
    assert open_store(f"s3://b/p?endpoint={endpoint}", host=None)


@pytest.mark.parametrize(
    ("text", "where", "name"),
    [
        ("/srv/a.db", "/srv", "a.db"),
        ("/a.db", "/", "a.db"),
        ("a.db", ".", "a.db"),
        ("back/ups/a.db", "back/ups", "a.db"),
        ("n1:/a.db", "n1:/", "a.db"),
        ("n1:/srv/a.db", "n1:/srv", "a.db"),
        ("sftp://me@h/srv/a.db", "sftp://me@h/srv", "a.db"),
        ("s3://b/a.db.zst.age?region=x", "s3://b?region=x", "a.db.zst.age"),
        ("s3://b/p/a.db?endpoint=https://m/", "s3://b/p?endpoint=https://m/", "a.db"),
    ],
)
def test_a_stored_file_is_named_by_its_store_and_its_name(text, where, name):
    assert parent(text) == (where, name)


@pytest.mark.parametrize("text", ["", "/", "/srv/", "/srv/.hidden", "s3://b", "s3://b/", "sftp://h/srv/"])
def test_what_names_no_file_is_refused(text):
    with pytest.raises(BadUsage, match="names no file"):
        parent(text)


# ---- what object stores say -------------------------------------------------------------------------------------

ANSWER = (
    "Generic S3 error: Error performing PUT https://s3.example.org/b/k?sig=hunter2 in 1ms - Server returned non-2xx"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f"{ANSWER} status code: 404 Not Found: <Error><Code>NoSuchBucket</Code></Error>",
            "no such bucket at https://s3",
        ),
        (
            f"{ANSWER} status code: 403 Forbidden: <Error><Code>AccessDenied</Code><Message>No\n way</Message></Error>",
            "https://s3.example.org refuses: AccessDenied: No way",
        ),
        (f"{ANSWER} status code: 403 Forbidden: ", "https://s3.example.org refuses: 403 Forbidden"),
        (f"{ANSWER}\n\nDebug source:\n source: dns error", "no connection to https://s3.example.org: its name is not"),
        (f"{ANSWER}\n\nDebug source:\n message: Connection refused", "nothing listens there"),
        (
            f"{ANSWER}\n\nDebug source:\n InvalidCertificate(\n  UnknownIssuer",
            "its certificate is not trusted (UnknownIssuer)",
        ),
        (f"{ANSWER}\n\nDebug source:\n source: TimedOut", "does not answer in time"),
        ("Generic S3 error: PUT http://169.254.169.254/latest/api/token", "no credentials were found"),
        ("Generic MicrosoftAzure error: Account must be specified", "no credentials were found"),
        ("Something\n new", "Something new"),
        (f"{ANSWER} {'x' * 9000}", "Server returned"),
    ],
)
def test_the_answer_of_an_object_store_becomes_one_line_without_secrets(text, said):
    why, remedy = explain(text, "s3")

    assert said in why
    assert remedy
    assert "\n" not in why
    assert len(why) <= 300
    assert "hunter2" not in why + remedy


def test_parts_are_known_by_their_name_only():
    assert stores.left_over(Stored(stores.part_of("a.db"), 1, 0.0), 1, 2)
    assert not stores.left_over(Stored(stores.part_of("a.db"), 1, 1.5), 1, 2)
    assert not stores.left_over(Stored("a.db", 1, 0.0), 1, 2)
