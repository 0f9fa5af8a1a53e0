"""Destinations over SFTP: servers that answer otherwise than OpenSSH's, and which accounts are used by it."""

import struct

import pytest

from orchestrator.backup.sftp import AccountStore, SftpStore
from orchestrator.backup.stores import HostStore
from orchestrator.engine.host import Completed, Declined, Garbled
from orchestrator.errors import HostLacks, HostUnreachable, StoreError
from orchestrator.hosts.sftp import PIECE_BYTES, SftpFiles

STATUS, HANDLE, DATA, NAME, ATTRS = 101, 102, 103, 104, 105


def string(content):
    return struct.pack(">I", len(content)) + content


def packet(kind, *fields):
    body = b"".join(struct.pack(">I", f) if isinstance(f, int) else f for f in fields)
    return struct.pack(">IB", len(body) + 1, kind) + body


def version(*extensions, number=3):
    return packet(2, number, *(string(word) for name in extensions for word in (name, b"1")))


def status(number, code=0, said=b""):
    return packet(STATUS, number, code, string(said), string(b""))


def data(number, content):
    return packet(DATA, number, string(content))


HANDLE_1 = packet(HANDLE, 1, string(b"h"))


class Scripted:
    """A server whose answers are known beforehand, and come in small portions."""

    def __init__(self, *answers):
        self.rest = b"".join(answers)
        self.sent = []
        self.breaks_after = 1 << 20

    def send(self, content):
        if len(self.sent) > self.breaks_after:
            self.rest = b""
            raise HostUnreachable("broken", remedy="wait")
        self.sent.append(content)

    def receive(self, most_bytes):
        taken, self.rest = self.rest[: min(most_bytes, 7)], self.rest[min(most_bytes, 7) :]
        return taken


def files(*answers):
    return SftpFiles(Scripted(version(), *answers), "vault")


def read(*answers, size):
    return b"".join(files(HANDLE_1, *answers).read("a", size))


def test_answers_may_come_in_any_order():
    first, second = b"a" * PIECE_BYTES, b"b" * 10

    assert read(data(3, second), data(2, first), status(4), size=PIECE_BYTES + 10) == first + second


def test_a_server_may_give_less_than_it_was_asked_for():
    assert read(data(2, b"ab"), data(3, b"c"), status(4), size=3) == b"abc"


def test_a_file_that_ends_before_its_size_is_not_taken_for_whole():
    with pytest.raises(Garbled, match="ended too early"):
        read(data(2, b"ab"), status(3, 1), status(4), size=3)


def test_the_answer_to_the_last_write_counts():
    answers = HANDLE_1, status(2), status(3), status(4, 4, b"disk on\nfire"), status(5)

    with pytest.raises(Declined, match=r"^the server only says that it failed \(disk on fire\)$"):
        files(*answers).write("a", [b"x", b"y"])


def test_the_answer_to_an_earlier_write_counts():
    answers = HANDLE_1, status(2), status(3, 4, b"Failure"), status(4), status(5)

    with pytest.raises(Declined, match=r"^the server only says that it failed$"):
        files(*answers).write("a", [b"x", b"y"])


def test_what_cannot_be_replaced_is_not_taken_away():
    stream = Scripted(version(b"posix-rename@openssh.com"), status(1, 4, b"Failure"))

    with pytest.raises(Declined):
        SftpFiles(stream, "vault").rename("a", "b")

    assert len(stream.sent) == 2


@pytest.mark.parametrize("request_number", range(1, 8))
def test_a_connection_that_breaks_at_any_request_is_the_hosts_error(request_number):
    stream = Scripted(version(), HANDLE_1, *(data(n, b"x" * PIECE_BYTES) for n in range(2, 12)))
    talking = SftpFiles(stream, "vault")
    stream.breaks_after = request_number

    with pytest.raises(HostUnreachable):
        list(talking.read("a", 10 * PIECE_BYTES))


def test_who_interrupts_waits_for_nothing():
    stream = Scripted(version(), HANDLE_1, status(2), status(3))
    talking = SftpFiles(stream, "vault")

    def interrupted(_):
        stream.receive = None
        raise KeyboardInterrupt

    def pieces():
        yield b"x"
        stream.receive = interrupted

    with pytest.raises(KeyboardInterrupt):
        talking.write("a", pieces())


@pytest.mark.parametrize(
    ("said", "why"),
    [(b"Welcome to vault!\n", "no SFTP"), (b"", "ended"), (status(1), "no SFTP"), (packet(2), "no SFTP")],
)
def test_what_is_no_sftp_is_recognized(said, why):
    with pytest.raises(Garbled, match=why):
        SftpFiles(Scripted(said), "vault")


def test_what_an_attribute_leaves_out_is_not_known():
    found = files(packet(ATTRS, 1, 0)).seen("a")

    assert (found.size_bytes, found.mode, found.modified) == (None, None, None)


# ---- what the store makes of it ---------------------------------------------------------------------------------


class Talking:
    """A host whose server is a script."""

    name = "vault"

    def __init__(self, *answers):
        self.answers = answers

    def files(self, talk, *, silence_s):
        return talk(SftpFiles(Scripted(*self.answers), self.name))


def store(*answers):
    return SftpStore(Talking(*answers), "/srv", "sftp://me@vault:2222/srv")


def test_an_account_that_is_not_given_sftp_is_told_so_with_what_to_try():
    with pytest.raises(StoreError, match=r"^sftp://me@vault:2222/srv: vault does not speak SFTP") as caught:
        store(b"This account is not available.\n").names()

    assert "`sftp sftp://me@vault:2222`" in caught.value.remedy


def test_a_server_that_ends_in_the_middle_is_tried_again():
    with pytest.raises(HostUnreachable, match="ended in the middle"):
        store(version()).names()


def test_a_server_that_answers_nonsense_is_an_error_of_the_store():
    with pytest.raises(StoreError, match="it cannot be listed: what it says is no SFTP: Expected handle"):
        store(version(), data(1, b"x")).names()


def test_a_kind_of_file_that_is_not_told_is_not_guessed():
    listed = packet(NAME, 2, 1, string(b"a.db"), string(b""), 0)

    with pytest.raises(StoreError, match=r"does not tell kind, size and time of a.db"):
        store(version(), HANDLE_1, listed, status(3, 1), status(4)).names()


# ---- shell or SFTP ----------------------------------------------------------------------------------------------


class Account:
    """A host that answers a command, or does not."""

    name = "vault"

    def __init__(self, answer, rc=0):
        self.answer, self.rc = answer, rc
        self.asked = []

    def run(self, argv, **how):
        self.asked.append((argv, how["sudo"]))
        if isinstance(self.answer, Exception):
            raise self.answer
        return Completed(tuple(argv), self.rc, self.answer, b"", 0.0)


def chosen(account):
    return AccountStore(account, "/srv", "sftp://vault/srv").chosen


def test_an_account_that_echoes_has_a_shell():
    assert isinstance(chosen(Account(b"shell\n")), HostStore)


@pytest.mark.parametrize(
    "account",
    [
        Account(b""),
        Account(b"This account is currently not available.\n", rc=1),
        Account(b"shell\n", rc=1),
        Account(b"Welcome!\nshell\n"),
        Account(b"\0\0\0\5\2\0\0\0\3"),
        Account(HostLacks("it runs no commands", remedy="use another")),
    ],
)
def test_any_other_account_is_taken_for_one_with_sftp_only(account):
    assert isinstance(chosen(account), SftpStore)


def test_an_account_that_cannot_be_asked_is_not_guessed():
    with pytest.raises(HostUnreachable):
        chosen(Account(HostUnreachable("away", remedy="wait")))


def test_it_is_asked_at_the_first_use_and_once():
    account = Account(b"shell\n")
    store = AccountStore(account, "/srv", "sftp://vault/srv")
    before = list(account.asked)

    assert store.chosen is store.chosen

    assert (before, account.asked) == ([], [(["sh", "-c", "echo shell"], False)])
