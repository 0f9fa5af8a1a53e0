"""The contract of `tests/scenario/test_stores.py`, held to over a real sshd: by a shell, and by SFTP alone."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab import sshd
from orchestrator.backup import sftp
from orchestrator.backup.sftp import SftpStore
from orchestrator.backup.stores import HostStore, open_store
from orchestrator.errors import HostUnreachable, StoreError
from orchestrator.hosts.sftp import SftpFiles
from tests.fakes.hosts import over_ssh
from tests.fakes.sources import Eventful
from tests.scenario.test_stores import BIG, Disks, digest, names_in, small_disk

pytestmark = pytest.mark.sshd
LARGE = BIG * 3


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    """A server where nobody has a shell."""
    with sshd.running(tmp_path_factory.mktemp("sshd") / "vault", only_sftp=True) as made:
        yield made


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """One more, which can make no large files."""
    made = sshd.create(tmp_path_factory.mktemp("sshd") / "narrow", only_sftp=True)
    with small_disk(1_000_000):
        made.start()
    yield made
    made.cut()
    made.stop()


@pytest.fixture
def reach(tmp_path):
    """Makes the machine of a server, as somebody, patiently or not."""
    made = []

    def machine(server, user=None, **how):
        directory = tmp_path / f"ssh-{len(made)}"
        directory.mkdir()
        (directory / "known_hosts").write_text(server.known_hosts)
        config = server.ssh_config(directory / "known_hosts", alias="vault")
        (directory / "config").write_text(config.replace(f"User {server.user}", f"User {user or server.user}"))
        made.append(over_ssh(directory / "config", "vault", **how))
        return made[-1]

    yield machine
    for each in made:
        each.close()


@pytest.fixture
def place(tmp_path):
    """The store's directory, which is not there yet, nor is the one above it."""
    return tmp_path / "above" / "store"


@pytest.fixture
def there(place):
    return lambda: names_in(place) if place.exists() else []


@pytest.fixture
def large(tmp_path):
    """Many pieces, and the last one not whole."""
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    return path


@pytest.fixture
def opened(place, reach):
    """The store that a URL means, on a server."""

    def store(server, *, directory=None, **how):
        machine = reach(server, **how)
        return open_store(f"sftp://vault{directory or place}", host=lambda _: machine)

    return store


class Hosts(Disks):
    """What stores over SSH do besides."""

    def test_a_file_of_many_pieces_is_whole(self, store, large, target, there):
        store.put(large, "a.db", digest(LARGE))
        store.get("a.db", target)

        assert target.read_bytes() == LARGE
        assert there() == ["a.db"]

    def test_a_name_that_is_no_text_is_somebody_elses(self, store, place, there):
        store.put_bytes(b"x", "a.json")
        (place / os.fsdecode(b"caf\xe9.json")).write_bytes(b"")
        (place / os.fsdecode(b".caf\xe9.json.part-0000000000000000")).write_bytes(b"")

        assert "a.json" in [file.name for file in store.names()]


class TestShell(Hosts):
    @pytest.fixture
    def store(self, opened, server):
        return opened(server)

    def test_files_are_hashed_there(self, store):
        assert isinstance(store.chosen, HostStore)


class TestSftp(Hosts):
    tells_room = False

    @pytest.fixture
    def store(self, opened, vault):
        return opened(vault)

    def test_nothing_but_sftp_is_used(self, store):
        assert isinstance(store.chosen, SftpStore)

    def test_a_directory_below_the_home_of_the_user_is_found(self, reach, vault, monkeypatch):
        machine = reach(vault)
        home = open_store("sftp://vault/~/no-such-directory-of-backups/x", host=lambda _: machine)

        assert home.names() == ()
        assert home.tidy(0, 9e9) == ()


class TestSftpOfAShell(Hosts):
    """The same protocol, by a server that starts another program for it."""

    tells_room = False

    @pytest.fixture
    def store(self, reach, server, place):
        return SftpStore(reach(server), str(place), f"sftp://vault{place}")


class Piped:
    """A host whose server of SFTP is a process of this machine."""

    name = "vault"

    def __init__(self, *argv):
        self.argv = argv

    def files(self, talk, *, silence_s):
        with subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
            try:
                stream = SimpleNamespace(send=process.stdin.write, receive=process.stdout.read)
                return talk(SftpFiles(stream, self.name))
            finally:
                process.kill()


class TestSftpWithoutExtensions(Hosts):
    """Servers that are not OpenSSH's."""

    tells_room = False

    @pytest.fixture
    def store(self, server, place):
        without = "posix-rename,fsync,statvfs"
        return SftpStore(Piped("/usr/lib/openssh/sftp-server", "-P", without), str(place), f"sftp://vault{place}")


def parts_in(place):
    return [path for path in place.iterdir() if ".part-" in path.name]


def in_the_middle(large, place, act, **how):
    """The file, of which `act` sees a part of the copy only."""

    def arrived():
        return any(part.stat().st_size for part in parts_in(place))

    return Eventful(large).doing(act, arrived, after_bytes=len(BIG), **how)


def test_a_connection_that_is_cut_in_the_middle_is_made_again(opened, vault, place, large, there):
    store = opened(vault, patience_s=20.0)
    cuts, before = [], set(vault.sessions())  # those of tests before have not ended yet
    store.names()
    ours = set(vault.sessions()) - before

    store.put(in_the_middle(large, place, lambda: cuts.append(vault.cut())), "a.db", digest(LARGE))

    assert len(ours) == 1
    assert cuts[0] >= 1
    assert (place / "a.db").read_bytes() == LARGE
    assert there() == ["a.db"]


def test_a_connection_that_stays_away_is_the_hosts_error_and_leaves_what_tidy_finds(tmp_path, opened, place, large):
    with sshd.running(tmp_path / "gone", only_sftp=True) as server:
        store = opened(server)
        store.put_bytes(b"old", "a.db")

        def cut():
            sessions = server.sessions()
            server.stop()
            for pid in sessions:
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(HostUnreachable, match="vault"):
            store.put(in_the_middle(large, place, cut), "a.db", digest(LARGE))
        server.start()

        assert store.get_bytes("a.db") == b"old"
        assert len(store.tidy(0, 9e9)) == 1
        assert names_in(place) == ["a.db"]


def test_ctrl_c_in_the_middle_leaves_nothing(opened, vault, place, large, there):
    store = opened(vault)
    store.put_bytes(b"old", "a.db")
    killer = threading.Thread(target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGINT))

    with pytest.raises(KeyboardInterrupt):
        store.put(in_the_middle(large, place, killer.start, goes_on=True), "a.db", digest(LARGE))
    killer.join()

    assert store.get_bytes("a.db") == b"old"
    assert there() == ["a.db"]
    store.put(large, "a.db", digest(LARGE))
    assert (place / "a.db").read_bytes() == LARGE


def test_while_it_is_written_a_file_is_for_nobody_else(opened, vault, place, large):
    modes = []

    def look():
        modes.extend(part.stat().st_mode & 0o777 for part in parts_in(place))

    opened(vault).put(in_the_middle(large, place, look), "a.db", digest(LARGE))

    assert modes == [0o600]


def test_a_disk_that_is_full_is_told_with_what_is_needed_and_nothing_is_left(opened, narrow, large, there):
    with pytest.raises(
        StoreError, match=f"a.db, of {len(LARGE)} bytes, cannot be written: the server only says that it failed$"
    ) as caught:
        opened(narrow).put(large, "a.db", digest(LARGE))

    assert "`sftp sftp://vault`, then `ls -la /" in caught.value.remedy
    assert there() == []


@pytest.fixture
def open_ground():
    """A directory that everybody may enter, unlike those of tests."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server lets others in")
def test_an_account_that_may_not_is_told_so(opened, open_ground):
    place = open_ground / "store"
    place.mkdir(mode=0o711)
    (place / "a.db").write_bytes(b"x")
    (place / "a.db").chmod(0o600)
    with sshd.running(open_ground / "sshd", only_sftp=True) as server:
        server.directory.chmod(0o711)
        store = opened(server, directory=place, user="nobody")

        for use in (
            store.names,
            lambda: store.get_bytes("a.db"),
            lambda: store.put_bytes(b"x", "b.db"),
            lambda: store.remove("a.db"),
        ):
            with pytest.raises(StoreError, match=r"^sftp://vault/.*: permission denied$"):
                use()

    assert names_in(place) == ["a.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's server locks others in")
def test_an_account_that_is_locked_into_a_directory_has_paths_of_its_own(opened, large, tmp_path):
    with tempfile.TemporaryDirectory(dir="/run") as made:  # all above a jail has to be root's alone
        ground = Path(made)
        jail = ground / "jail"
        (jail / "srv").mkdir(parents=True)
        shutil.chown(jail / "srv", "nobody")
        ground.chmod(0o711)
        server = sshd.create(ground / "sshd", only_sftp=True)
        server.directory.chmod(0o711)
        with (server.directory / "sshd_config").open("a") as file:
            file.write(f"ChrootDirectory {jail}\n")
        server.start()
        try:
            store = opened(server, directory="/srv/prod", user="nobody")
            store.put(large, "a.db", digest(LARGE))
            store.get("a.db", tmp_path / "back")

            assert (tmp_path / "back").read_bytes() == (jail / "srv/prod/a.db").read_bytes() == LARGE
            with pytest.raises(StoreError, match="permission denied"):
                opened(server, directory="/elsewhere", user="nobody").put_bytes(b"x", "a.json")
        finally:
            server.cut()
            server.stop()


def test_a_server_that_falls_silent_in_the_middle_is_given_up(opened, vault, place, large, monkeypatch):
    monkeypatch.setattr(sftp, "SILENT_S", 0.5)
    store = opened(vault)
    store.names()

    def silence():
        for pid in vault.sessions():
            os.kill(pid, signal.SIGSTOP)

    with pytest.raises(HostUnreachable, match="vault: the connection broke: no answer in time"):
        store.put(in_the_middle(large, place, silence), "a.db", digest(LARGE))
