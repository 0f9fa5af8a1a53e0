"""SFTP's packets: answers in any order, less than was asked for, and what is no SFTP."""

import struct

import pytest

from orchestrator.backup.sftp import AccountStore, SftpStore
from orchestrator.backup.sftpwire import AHEAD, PIECE_BYTES, Declined, Ended, Garbled, Session
from orchestrator.backup.stores import HostStore
from orchestrator.engine.host import Completed
from orchestrator.errors import HostLacks, HostUnreachable, StoreError

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

    def send(self, content):
        self.sent.append(content)

    def receive(self, most_bytes):
        taken, self.rest = self.rest[: min(most_bytes, 7)], self.rest[min(most_bytes, 7) :]
        return taken


def read(*answers, size):
    return list(Session(Scripted(version(), HANDLE_1, *answers)).read("a", size))


def test_answers_may_come_in_any_order():
    first, second = b"a" * PIECE_BYTES, b"b" * 10

    assert read(data(3, second), data(2, first), status(4), size=PIECE_BYTES + 10) == [first, second]


def test_a_server_may_give_less_than_it_was_asked_for():
    assert read(data(2, b"ab"), data(3, b"c"), status(4), size=3) == [b"ab", b"c"]


def test_no_more_requests_are_under_way_than_memory_is_meant_for():
    stream = Scripted(version(), HANDLE_1, *(data(n + 2, b"x" * PIECE_BYTES) for n in range(AHEAD)))
    pieces = Session(stream).read("a", PIECE_BYTES * AHEAD * 10)

    next(pieces)

    assert len(stream.sent) == 2 + AHEAD


def test_a_file_that_is_written_is_not_ahead_of_its_answers_for_ever():
    stream = Scripted(version(), HANDLE_1, *(status(n + 2) for n in range(AHEAD * 2 + 1)))

    Session(stream).write("a", 0o600, [b"x" * PIECE_BYTES * AHEAD * 2])

    assert len(stream.sent) == 2 + AHEAD * 2 + 1
    assert stream.rest == b""


def test_the_answer_to_the_last_write_counts():
    with pytest.raises(Declined, match=r"the server only says that it failed \(disk on fire\)"):
        Session(Scripted(version(), HANDLE_1, status(2), status(3, 4, b"disk on\nfire"))).write(
            "a", 0o600, [b"x", b"y"]
        )


def test_what_cannot_be_brought_to_the_disk_is_an_error():
    answers = version(b"fsync@openssh.com"), HANDLE_1, status(2), status(3, 4, b"Failure"), status(4)

    with pytest.raises(Declined, match=r"^the server only says that it failed$"):
        Session(Scripted(*answers)).write("a", 0o600, [b"x"])


def test_a_file_that_ends_before_its_size_is_not_taken_for_whole():
    with pytest.raises(Garbled, match="ended too early"):
        read(data(2, b"ab"), status(3, 1), size=3)


@pytest.mark.parametrize("content", [b"", b"abcd"])
def test_more_than_was_asked_for_and_nothing_are_no_answers(content):
    with pytest.raises(Garbled, match=f"3 bytes were asked for, and {len(content)} came"):
        read(data(2, content), size=3)


def test_another_answer_than_was_asked_for_is_none():
    with pytest.raises(Garbled, match="answers with 101 instead of 103"):
        read(status(2), size=3)


def test_a_server_that_ends_in_the_middle_is_told_apart():
    with pytest.raises(Ended):
        read(data(2, b"ab")[:-1], size=2)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"Welcome to vault!\n", "no SFTP"),
        (b"", "ended"),
        (b"\0\0\0\0", "no SFTP"),
        (version(number=2), "version 3"),
        (status(1), "version 3"),
        (packet(2, 3, string(b"posix-rename@openssh.com")), "too early"),
        (packet(2), "too early"),
    ],
)
def test_what_is_no_sftp_is_recognized(said, why):
    with pytest.raises(Garbled, match=why):
        Session(Scripted(said))


def test_what_an_attribute_leaves_out_is_not_known_and_what_it_adds_is_passed_over():
    full = 0x8000000F
    attributes = packet(ATTRS, 1, full, struct.pack(">Q", 5), 1, 1, 0o100600, 7, 8, 1, string(b"name"), string(b"more"))
    session = Session(Scripted(version(), attributes, packet(ATTRS, 2, 0)))

    known, unknown = session.seen("a"), session.seen("b")

    assert (known.size_bytes, known.mode, known.modified) == (5, 0o100600, 8)
    assert (unknown.size_bytes, unknown.mode, unknown.modified) == (None, None, None)


# ---- what the store makes of it ---------------------------------------------------------------------------------


class Talking:
    """A host whose server is a script."""

    name = "vault"

    def __init__(self, *answers):
        self.answers = answers

    def converse(self, service, talk, *, silence_s):
        return talk(Scripted(*self.answers))


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
    with pytest.raises(StoreError, match="it cannot be listed: it answers with 103"):
        store(version(), data(1, b"x")).names()


def test_a_kind_of_file_that_is_not_told_is_not_guessed():
    listed = packet(NAME, 2, 1, string(b"a.db"), string(b""), 0)

    with pytest.raises(StoreError, match=r"does not tell kind, size and time of a.db"):
        store(version(), HANDLE_1, listed, status(3, 1), status(4)).names()


def test_a_server_that_does_not_tell_its_room_is_not_asked():
    assert store(version(), packet(ATTRS, 1, 0)).free_bytes() is None


def test_room_that_may_not_be_looked_at_is_not_known():
    assert store(version(b"statvfs@openssh.com"), status(1, 3)).free_bytes() is None


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
