"""Compression and encryption of snapshots, and what becomes of files that are damaged, too large or not for us."""

import errno
import hashlib
import os
import subprocess
import tempfile

import pyrage
import pytest
import zstandard
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pyrage import x25519

from orchestrator.backup import seal as module
from orchestrator.backup.keys import check_recipients
from orchestrator.backup.seal import Sealed, seal, unseal, unseal_into
from orchestrator.errors import BadUsage, SnapshotInvalid, StoreError

#: More than a piece, and neither all zeros nor all chance.
PLAIN = b"".join(hashlib.sha512(str(n).encode()).digest() + bytes(200) for n in range(8000))
LEVELS = [None, 3]


class Key:
    """An identity of age, in a file, and its public half."""

    def __init__(self, directory, name="identity"):
        secret = x25519.Identity.generate()
        self.public = str(secret.to_public())
        self.path = directory / name
        self.path.write_text(f"# created: today\n# public key: {self.public}\n\n{secret}\n")
        self.path.chmod(0o600)


@pytest.fixture
def key(tmp_path):
    return Key(tmp_path)


@pytest.fixture
def plain(tmp_path):
    path = tmp_path / "plain"
    path.write_bytes(PLAIN)
    return path


@pytest.fixture
def sealed(plain, key):
    """A file that is compressed and encrypted."""
    path = plain.with_name("sealed")
    seal(plain, path, level=3, recipients=[key.public])
    return path


def ssh_key(directory, kind, *, phrase=""):
    path = directory / f"ssh-{kind}"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-C", "a@b", "-f", path], check=True)
    return path, path.with_name(f"{path.name}.pub").read_text()


def opened(source, target, *keys, compressed=True, **how):
    return unseal(source, target, compressed=compressed, identities=[key.path for key in keys], **how)


# ---- there and back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("encrypted", [False, True])
def test_what_was_sealed_is_unsealed_as_it_was(plain, key, tmp_path, level, encrypted):
    keys = [key] if encrypted else []

    sealed = seal(plain, tmp_path / "s", level=level, recipients=[k.public for k in keys])
    back = opened(tmp_path / "s", tmp_path / "back", *keys, compressed=level is not None)

    content = (tmp_path / "s").read_bytes()
    assert sealed == Sealed(len(content), hashlib.sha256(content).hexdigest())
    assert back == Sealed(len(PLAIN), hashlib.sha256(PLAIN).hexdigest())
    assert (tmp_path / "back").read_bytes() == PLAIN


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(content=st.binary(max_size=3000), level=st.sampled_from([None, 1, 19]), encrypted=st.booleans())
def test_any_content_comes_back(tmp_path_factory, content, level, encrypted):
    assume(not content.startswith(module.ENCRYPTED))  # it would be taken for what it says it is
    directory = tmp_path_factory.mktemp("any")
    key = Key(directory)
    (directory / "plain").write_bytes(content)

    seal(directory / "plain", directory / "s", level=level, recipients=[key.public] if encrypted else [])
    opened(directory / "s", directory / "back", key, compressed=level is not None)

    assert (directory / "back").read_bytes() == content


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) + 1, 2 << 20])
@pytest.mark.parametrize("level", LEVELS)
def test_a_file_that_ends_at_the_edge_of_a_piece_is_whole(tmp_path, key, length, level):
    (tmp_path / "plain").write_bytes(bytes(length))

    seal(tmp_path / "plain", tmp_path / "s", level=level, recipients=[key.public])
    back = opened(tmp_path / "s", tmp_path / "back", key, compressed=level is not None)

    assert back == Sealed(length, hashlib.sha256(bytes(length)).hexdigest())


def test_both_files_are_readable_by_nobody_else(sealed, key, tmp_path):
    opened(sealed, tmp_path / "back", key)

    assert [p.stat().st_mode & 0o777 for p in (sealed, tmp_path / "back")] == [0o600, 0o600]


def test_each_recipient_opens_it_alone(plain, tmp_path):
    first, second = Key(tmp_path, "first"), Key(tmp_path, "second")

    seal(plain, tmp_path / "s", level=3, recipients=[first.public, second.public])

    for key in (first, second):
        opened(tmp_path / "s", tmp_path / f"by-{key.path.name}", key)
    assert (tmp_path / "by-first").read_bytes() == (tmp_path / "by-second").read_bytes() == PLAIN


def test_identities_of_several_files_are_tried(sealed, key, tmp_path):
    other = Key(tmp_path, "other")

    assert opened(sealed, tmp_path / "back", other, key).size_bytes == len(PLAIN)


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_an_ssh_key_does_as_well(plain, tmp_path, kind):
    private, public = ssh_key(tmp_path, kind)

    seal(plain, tmp_path / "s", level=3, recipients=check_recipients([public]))
    unseal(tmp_path / "s", tmp_path / "back", compressed=True, identities=[private])

    assert (tmp_path / "back").read_bytes() == PLAIN


def test_what_is_not_encrypted_needs_no_identity_and_none_is_read(plain, tmp_path):
    seal(plain, tmp_path / "s", level=3, recipients=[])

    back = unseal(tmp_path / "s", tmp_path / "back", compressed=True, identities=[tmp_path / "no-such-file"])

    assert back.size_bytes == len(PLAIN)


def test_what_age_itself_wrote_with_armor_is_read(plain, key, tmp_path):
    recipient = x25519.Recipient.from_str(key.public)
    (tmp_path / "s").write_bytes(pyrage.encrypt(PLAIN, [recipient], armored=True))

    opened(tmp_path / "s", tmp_path / "back", key, compressed=False)

    assert (tmp_path / "back").read_bytes() == PLAIN


# ---- damage -----------------------------------------------------------------------------------------------------


def invalid(match, source, target, *keys, **how):
    """`source` is refused for that reason, and `target` is not there."""
    with pytest.raises(SnapshotInvalid, match=match) as caught:
        opened(source, target, *keys, **how)
    assert caught.value.remedy
    assert not target.exists()
    return caught.value


@pytest.mark.parametrize("cut", [1, 100, 1 << 16, 200_000])
def test_encrypted_data_that_is_cut_short_is_refused(sealed, key, tmp_path, cut):
    sealed.write_bytes(sealed.read_bytes()[:-cut])

    invalid("damaged or cut short", sealed, tmp_path / "back", key)


def test_encrypted_data_that_ends_at_the_edge_of_a_chunk_is_refused(plain, key, tmp_path):
    seal(plain, tmp_path / "s", level=None, recipients=[key.public])
    chunk = (1 << 16) + 16
    content = (tmp_path / "s").read_bytes()
    head = len(content) - (len(PLAIN) // (1 << 16)) * chunk - (len(PLAIN) % (1 << 16) + 16)
    (tmp_path / "s").write_bytes(content[: head + 3 * chunk])

    invalid("damaged or cut short", tmp_path / "s", tmp_path / "back", key, compressed=False)


@pytest.mark.parametrize("at", [30, 300, -1, -100_000])
def test_encrypted_data_with_one_bit_turned_is_refused(sealed, key, tmp_path, at):
    content = bytearray(sealed.read_bytes())
    content[at] ^= 1
    sealed.write_bytes(content)

    invalid("damaged or cut short|none of the 1 identities", sealed, tmp_path / "back", key)


def test_something_behind_encrypted_data_is_refused(sealed, key, tmp_path):
    sealed.write_bytes(sealed.read_bytes() + b"x")

    invalid("damaged or cut short", sealed, tmp_path / "back", key)


@pytest.mark.parametrize("cut", [1, 4, 5, 1000, 500_000])
def test_compressed_data_that_is_cut_short_is_refused(plain, tmp_path, cut):
    seal(plain, tmp_path / "s", level=3, recipients=[])
    (tmp_path / "s").write_bytes((tmp_path / "s").read_bytes()[:-cut])

    invalid("compressed data is cut short", tmp_path / "s", tmp_path / "back")


@pytest.mark.parametrize("at", [0, 100, 400_000, -1])
def test_compressed_data_with_a_byte_changed_is_refused(plain, tmp_path, at):
    seal(plain, tmp_path / "s", level=3, recipients=[])
    content = bytearray((tmp_path / "s").read_bytes())
    content[at] ^= 0xFF
    (tmp_path / "s").write_bytes(content)

    invalid("compressed data is (damaged|cut short)", tmp_path / "s", tmp_path / "back")


@pytest.mark.parametrize("more", [b"x", b"x" * 5000, zstandard.ZstdCompressor().compress(b"another frame")])
def test_something_behind_compressed_data_is_refused(plain, key, tmp_path, more):
    seal(plain, tmp_path / "s", level=3, recipients=[])
    (tmp_path / "twice").write_bytes((tmp_path / "s").read_bytes() + more)
    seal(tmp_path / "twice", tmp_path / "e", level=None, recipients=[key.public])

    invalid("something follows the end", tmp_path / "twice", tmp_path / "back")
    invalid("something follows the end", tmp_path / "e", tmp_path / "back", key)


def test_something_behind_compressed_data_that_ends_with_a_slice_is_refused(tmp_path, monkeypatch):
    frame = zstandard.ZstdCompressor().compress(b"all of it")
    monkeypatch.setattr(module, "SLICE_BYTES", len(frame))
    (tmp_path / "s").write_bytes(frame + b"x")

    invalid("something follows the end", tmp_path / "s", tmp_path / "back")


@pytest.mark.parametrize("content", [b"", b"\x28", b"no frame at all"])
def test_what_is_no_compressed_data_is_refused(tmp_path, content):
    (tmp_path / "s").write_bytes(content)

    invalid("compressed data is (damaged|cut short)", tmp_path / "s", tmp_path / "back")


def test_a_small_file_that_becomes_a_huge_one_is_stopped_at_its_limit(tmp_path, key):
    with (tmp_path / "zeros").open("wb") as file:
        file.truncate(200 << 20)
    seal(tmp_path / "zeros", tmp_path / "s", level=19, recipients=[key.public])
    assert (tmp_path / "s").stat().st_size < 20_000

    invalid("larger than 1000000 bytes", tmp_path / "s", tmp_path / "back", key, limit_bytes=1_000_000)


def test_a_slice_of_compressed_data_becomes_no_more_than_its_blocks_may_hold():
    frame = zstandard.ZstdCompressor(level=19).compress(bytes(100 << 20))
    reader = zstandard.ZstdDecompressor().decompressobj()

    sizes = [len(reader.decompress(frame[at : at + module.SLICE_BYTES])) for at in range(0, len(frame), 1024)]

    assert max(sizes) <= 32 << 20


@pytest.mark.parametrize("compressed", [False, True])
def test_the_limit_itself_is_allowed_and_a_byte_less_is_not(plain, tmp_path, compressed):
    seal(plain, tmp_path / "s", level=3 if compressed else None, recipients=[])

    invalid("larger than", tmp_path / "s", tmp_path / "b", compressed=compressed, limit_bytes=len(PLAIN) - 1)
    opened(tmp_path / "s", tmp_path / "back", compressed=compressed, limit_bytes=len(PLAIN))

    assert (tmp_path / "back").read_bytes() == PLAIN


def test_what_goes_into_an_open_file_makes_no_other_and_leaves_it_open(sealed, tmp_path, key):
    before = sorted(tmp_path.iterdir())
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        found = unseal_into(sealed, file, compressed=True, identities=[key.path], limit_bytes=len(PLAIN))
        file.seek(0)

        assert file.read() == PLAIN
    assert found == Sealed(len(PLAIN), hashlib.sha256(PLAIN).hexdigest())
    assert sorted(tmp_path.iterdir()) == before


def test_an_open_file_gets_no_more_than_its_limit_and_stays_its_owners(sealed, tmp_path, key):
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        with pytest.raises(SnapshotInvalid, match="larger than 10 bytes"):
            unseal_into(sealed, file, compressed=True, identities=[key.path], limit_bytes=10)

        assert not file.closed


def test_a_frame_that_wants_more_memory_than_we_give_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WINDOW_BYTES", 1 << 15)
    shape = zstandard.ZstdCompressionParameters(window_log=20, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=shape).compressobj()
    (tmp_path / "s").write_bytes(writer.compress(PLAIN) + writer.flush())

    invalid("too much memory", tmp_path / "s", tmp_path / "back")


# ---- identities -------------------------------------------------------------------------------------------------


def test_without_an_identity_it_says_that_one_is_needed(sealed, tmp_path):
    err = invalid("is encrypted, and no identity was given", sealed, tmp_path / "back")

    assert "--identity" in err.remedy


def test_a_wrong_identity_is_said_to_be_wrong(sealed, tmp_path):
    invalid("none of the 1 identities given opens it", sealed, tmp_path / "back", Key(tmp_path, "other"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_an_identity_that_others_may_read_is_refused_with_its_cure(sealed, key, tmp_path, mode):
    key.path.chmod(mode)

    with pytest.raises(BadUsage, match=rf"mode 0{mode:o}") as caught:
        opened(sealed, tmp_path / "back", key)

    assert caught.value.remedy == f"chmod 600 {key.path}"
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no identity"),
        ("# only a comment\n", "holds no identity"),
        ("age1notsecret\n", "holds no identity"),
        ("AGE-SECRET-KEY-1NONSENSE\n", "cannot be used"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nbm90IG9uZQ==\n", "cannot be used"),
        ("age-encryption.org/v1\n-> scrypt\n", "is itself encrypted"),
    ],
)
def test_a_file_that_is_no_identity_says_why(sealed, key, tmp_path, content, said):
    key.path.write_text(content)

    with pytest.raises(BadUsage, match=said) as caught:
        opened(sealed, tmp_path / "back", key)

    assert "NONSENSE" not in str(caught.value)


def test_an_ssh_key_with_a_passphrase_is_refused(plain, tmp_path):
    private, public = ssh_key(tmp_path, "ed25519", phrase="secret phrase")
    seal(plain, tmp_path / "s", level=3, recipients=check_recipients([public]))

    with pytest.raises(BadUsage, match="must be decrypted first") as caught:
        unseal(tmp_path / "s", tmp_path / "back", compressed=True, identities=[private])

    assert "without a passphrase" in caught.value.remedy


def test_an_identity_file_that_is_not_there_is_named(sealed, tmp_path):
    with pytest.raises(BadUsage, match="no-such-file cannot be read: No such file"):
        unseal(sealed, tmp_path / "back", compressed=True, identities=[tmp_path / "no-such-file"])


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", ["file", "link", "directory"])
def test_a_target_that_is_there_already_stays_as_it_is(plain, tmp_path, present):
    target = tmp_path / "target"
    make = {
        "file": lambda: target.write_bytes(b"mine"),
        "link": lambda: target.symlink_to(tmp_path / "elsewhere"),
        "directory": target.mkdir,
    }
    make[present]()

    with pytest.raises(StoreError, match="is there already"):
        seal(plain, target, level=3, recipients=[])

    assert os.path.lexists(target)
    assert not (tmp_path / "elsewhere").exists()


def test_a_target_in_no_directory_is_named(plain, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere/s cannot be written: No such file"):
        seal(plain, tmp_path / "nowhere" / "s", level=3, recipients=[])


def test_a_source_that_is_not_there_is_named_and_leaves_nothing(tmp_path):
    with pytest.raises(StoreError, match="plain cannot be read: No such file"):
        seal(tmp_path / "plain", tmp_path / "s", level=3, recipients=[])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_disk_that_is_full_is_told_of_and_leaves_nothing(plain, key, tmp_path, level, encrypted):
    before = sorted(tmp_path.iterdir())
    recipients = [key.public] if encrypted else []

    with (
        limited_files(300_000),
        pytest.raises(StoreError, match=r"cannot be written after 300000 bytes: File too large"),
    ):
        seal(plain, tmp_path / "s", level=level, recipients=recipients)

    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_is_full_while_it_is_unsealed_is_told_of_and_leaves_nothing(sealed, key, tmp_path):
    before = sorted(tmp_path.iterdir())

    with limited_files(1_000_000), pytest.raises(StoreError, match="File too large"):
        opened(sealed, tmp_path / "back", key)

    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("length", [2 << 20, 8 << 20])
def test_a_source_that_shrinks_or_grows_meanwhile_is_told_of(tmp_path, length):
    (tmp_path / "plain").write_bytes(os.urandom(4 << 20))

    def shaken(frame):
        for piece in frame:
            os.truncate(tmp_path / "plain", length)
            yield piece

    with (tmp_path / "plain").open("rb") as file:
        frame = shaken(module._compressed(module._plain(file), file, 3))
        with pytest.raises(SnapshotInvalid, match="changed while it was compressed"):
            list(frame)


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error")])
def test_an_interrupt_inside_the_encryption_stays_one(key, tmp_path, failure):
    def pieces():
        yield b"x" * 100_000
        raise failure

    with (
        pytest.raises(type(failure)),
        module._Sink(tmp_path / "s") as sink,
    ):
        module._encrypt(module._Pieces(pieces()), sink, [module.recipient(key.public)], tmp_path)

    assert not (tmp_path / "s").exists()


class limited_files:  # noqa: N801  read as a verb
    """Files of this process cannot grow beyond a size meanwhile: EFBIG, which a disk without room gives as ENOSPC."""

    def __init__(self, size_bytes):
        import resource  # noqa: PLC0415
        import signal  # noqa: PLC0415

        self._resource, self._signal, self._size = resource, signal, size_bytes

    def __enter__(self):
        self._handler = self._signal.signal(self._signal.SIGXFSZ, self._signal.SIG_IGN)
        self._before = self._resource.getrlimit(self._resource.RLIMIT_FSIZE)
        self._resource.setrlimit(self._resource.RLIMIT_FSIZE, (self._size, self._before[1]))

    def __exit__(self, *failure):
        self._resource.setrlimit(self._resource.RLIMIT_FSIZE, self._before)
        self._signal.signal(self._signal.SIGXFSZ, self._handler)


# ---- recipients -------------------------------------------------------------------------------------------------


def test_recipients_of_a_file_and_of_the_command_line_are_each_named_once(key, tmp_path):
    other = Key(tmp_path, "other")
    _, public = ssh_key(tmp_path, "ed25519")
    (tmp_path / "list").write_text(f"# who may open backups\n\n{key.public}\n{public}{other.public}\n")

    assert check_recipients([key.public, f"@{tmp_path}/list"]) == (
        key.public,
        " ".join(public.split()[:2]),
        other.public,
    )


def test_no_recipients_are_none():
    assert check_recipients([]) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "age1",
        "someone",
        "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
        "ssh-ed25519 AAAA",
        "a b",
    ],
)
def test_what_is_no_recipient_is_refused_with_the_flag(text):
    with pytest.raises(BadUsage, match="--recipient") as caught:
        check_recipients([text])

    assert "age1" in caught.value.remedy


def test_an_ssh_key_of_a_kind_that_age_has_not_is_refused(tmp_path):
    _, public = ssh_key(tmp_path, "ecdsa")

    with pytest.raises(BadUsage, match="--recipient"):
        check_recipients([public])


def test_a_secret_that_is_given_as_a_recipient_is_not_repeated(key, tmp_path):
    secret = key.path.read_text().splitlines()[-1]

    with pytest.raises(BadUsage, match="which is secret") as caught:
        check_recipients([f" {secret}"])

    assert secret[-20:] not in f"{caught.value} {caught.value.remedy}"
    with pytest.raises(BadUsage, match="line 4: that is an identity"):
        check_recipients([f"@{key.path}"])


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), ("# none\n", "names no recipient")])
def test_a_file_without_recipients_is_refused(tmp_path, content, said):
    if content is not None:
        (tmp_path / "list").write_text(content)

    with pytest.raises(BadUsage, match=said):
        check_recipients([f"@{tmp_path}/list"])


def test_a_bad_line_of_a_file_is_named_by_its_number(tmp_path, key):
    (tmp_path / "list").write_text(f"{key.public}\nnobody\n")

    with pytest.raises(BadUsage, match=r"list, line 2: `nobody` is no recipient"):
        check_recipients([f"@{tmp_path}/list"])
