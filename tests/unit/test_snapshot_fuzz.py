"""Whatever is in a file: it is a snapshot or it is refused, soon."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.backup.snapshot import Snapshot, entries, examine
from orchestrator.errors import SnapshotInvalid
from tests.fakes import boltfiles
from tests.fakes.boltfiles import PAGE, Keys, opened, sealed

SECONDS = 2.0  # of the processor: the machine may be busy


def some():
    """All that a file may have in it: branch pages, overflow, inline buckets and others, tombstones, alarms."""
    keys = Keys()
    for number in range(12):
        keys.put(b"/registry/pods/%d" % number, b"v" * number)
    keys.put(b"/registry/a.b/c/d", b"v" * 5000, lease=7).delete(b"/registry/pods/3").put(b"other")
    alarm = [(boltfiles.field(1, boltfiles.MEMBER) + boltfiles.field(2, 1), b"")]
    meta = [*boltfiles.rows()["meta"], (b"finishedCompactRev", boltfiles.revision(2))]
    return keys.pairs, {"alarm": alarm, "meta": sorted(meta), "per_page": 4}


PAIRS, DESCRIBED = some()
INLINE = boltfiles.database(PAIRS, freed=[], **DESCRIBED)
APART = boltfiles.database(PAIRS, inline=False, **DESCRIBED)


def written(database):
    """Places of a file in which something stands."""
    return [at for at, byte in enumerate(database) if byte]


def tried(content, *, trailer=True):
    """What came of it. Every other exception, and a long time, is a failure."""
    begun = time.process_time()
    outcomes = []
    for read in (examine, lambda file, trailer: list(entries(file, trailer=trailer))):
        try:
            outcomes.append(read(opened(content), trailer=trailer))
        except SnapshotInvalid as err:
            assert err.remedy  # noqa: PT017 - nothing else may be raised
            outcomes.append(None)
    assert time.process_time() - begun < SECONDS
    assert outcomes[0] is None or isinstance(outcomes[0], Snapshot)
    return outcomes[0]


@pytest.mark.parametrize("database", [INLINE, APART])
def test_the_files_that_are_damaged_here_are_whole_ones(database):
    assert tried(sealed(database)).keys == 13
    assert tried(database, trailer=False).keys == 13


@pytest.mark.parametrize("database", [INLINE, APART])
def test_a_flipped_bit_under_a_right_sum_is_refused_or_does_no_harm(database):
    chosen = random.Random(7)
    places = [at for at in written(database) if database[at] != ord("v")] + list(range(0, len(database), 97))

    for at in places:
        damaged = bytearray(database)
        damaged[at] ^= 1 << chosen.randrange(8)
        tried(bytes(damaged), trailer=False)


def test_a_flipped_bit_under_the_old_sum_is_always_refused():
    whole = sealed(INLINE)

    for at in range(0, len(whole), 61):
        assert tried(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]) is None


def test_a_cut_file_is_always_refused():
    whole = sealed(INLINE)

    for length in {*range(0, len(whole), 512), *range(0, len(whole), 331), *range(len(whole) - 40, len(whole))}:
        assert tried(whole[:length]) is None
        assert tried(whole[:length], trailer=False) is None or length == len(INLINE)


def test_a_cut_database_is_refused_under_a_right_sum_too():
    for length in range(0, len(INLINE), 512):
        assert tried(sealed(INLINE[:length])) is None


@given(tail=st.binary(min_size=1, max_size=3 * 512))
@settings(max_examples=60, deadline=None)
def test_bytes_behind_a_snapshot_are_refused(tail):
    assert tried(sealed(INLINE) + tail) is None


@given(
    number=st.integers(0, len(APART) // PAGE - 1),
    seed=st.integers(0, 1 << 32),
    keep=st.sampled_from([0, 16, 32, 80, 512]),
)
@settings(max_examples=250, deadline=None)
def test_a_page_of_noise_is_refused_or_does_no_harm(number, seed, keep):
    begin = number * PAGE + keep
    noise = random.Random(seed).randbytes(PAGE - keep)

    tried(sealed(APART[:begin] + noise + APART[begin + len(noise) :]))


@given(first=st.integers(2, len(APART) // PAGE - 1), second=st.integers(2, len(APART) // PAGE - 1), told=st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_page_in_the_place_of_another_is_refused_or_does_no_harm(first, second, told):
    page = APART[first * PAGE : (first + 1) * PAGE]
    if told:  # it says that it belongs there
        page = second.to_bytes(8, "little") + page[8:]

    tried(sealed(APART[: second * PAGE] + page + APART[(second + 1) * PAGE :]))


@given(
    at=st.sampled_from([at for at in written(APART) if at >= 2 * PAGE and APART[at] != ord("v")]),
    number=st.sampled_from([0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1]),
    width=st.sampled_from([1, 2, 4, 8]),
)
@settings(max_examples=400, deadline=None)
def test_a_number_that_nobody_expects_is_refused_or_does_no_harm(at, number, width):
    unexpected = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")

    tried(sealed(APART[:at] + unexpected + APART[at + width :][: len(APART) - at - width]))


@given(
    root=st.integers(0, 40), high_water=st.integers(0, 40), freelist=st.integers(0, 40), page_size=st.integers(0, 80)
)
@settings(max_examples=150, deadline=None)
def test_metas_with_a_right_sum_that_lie_are_refused_or_do_no_harm(root, high_water, freelist, page_size):
    told = {"freelist": freelist, "size": page_size * 1024}
    metas = (boltfiles.meta(number, root, high_water, 9, **told).ljust(PAGE, b"\0") for number in (0, 1))

    tried(sealed(b"".join(metas) + INLINE[2 * PAGE :]))


@given(content=st.binary(max_size=2000))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(content):
    assert tried(content) is None
    assert tried(sealed(content.ljust(8 * PAGE, b"\xa5"))) is None


@given(value=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_noise_in_the_place_of_a_record_is_refused_or_does_no_harm(value):
    tried(sealed(boltfiles.database([*PAIRS[:3], (boltfiles.revision(99), value)])))


def test_a_page_that_says_it_is_huge_costs_nothing(tmp_path):
    path = tmp_path / "huge"
    leaf = boltfiles.page(2, boltfiles.LEAF, 0xFFFF, 0x00FFFFFF)
    metas = (boltfiles.meta(number, 2, 1 << 24, 9).ljust(PAGE, b"\0") for number in (0, 1))
    path.write_bytes(b"".join(metas) + leaf)
    with path.open("r+b") as file:
        file.truncate(64 << 30)
    begun = time.process_time()

    with pytest.raises(SnapshotInvalid, match=r"page 2 with 16777216 in all is not among|page 2 has \d+ bytes"):
        next(entries(path, trailer=False))

    assert time.process_time() - begun < SECONDS
