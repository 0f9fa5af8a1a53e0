"""What the lab builds, kept by the digest of what it was built from."""

import os
import re
import threading
from pathlib import Path

import pytest

from lab import cache

TRIES = 5000


class Died(BaseException):
    """As an interrupt would end a build."""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "orchestrator-lab"


class Build:
    """Writes a file, and counts how often it was asked to."""

    def __init__(self, error=None):
        self.count = 0
        self.error = error

    def __call__(self, out):
        self.count += 1
        (out / "made").write_text(str(self.count))
        if self.error:
            raise self.error


def said(capsys, thread):
    """What was said since the last call, a moment later."""
    thread.join(0.002)
    return capsys.readouterr().err


def left(root):
    return sorted(p.name for p in root.iterdir() if p.suffix != ".lock")


def test_the_same_inputs_are_built_once(root):
    build = Build()

    first, second = (cache.artifact("thing", ["1.36.3"], build) for _ in range(2))

    assert (first, build.count) == (second, 1)
    assert (first / "made").read_text() == "1"
    assert re.fullmatch(r"thing-[0-9a-f]{12}", first.name)
    assert left(root) == [first.name]


def test_other_inputs_are_built_beside_them(root):
    build = Build()

    first, second = (cache.artifact("thing", [version], build) for version in ("1.36.3", "1.37.2"))

    assert build.count == 2
    assert left(root) == sorted([first.name, second.name])


@pytest.mark.parametrize("error", [ValueError("no"), Died()])
def test_a_build_that_fails_leaves_nothing_and_the_next_one_begins_anew(root, error):
    with pytest.raises(type(error)):
        cache.artifact("thing", ["x"], Build(error))
    assert left(root) == []

    assert (cache.artifact("thing", ["x"], Build()) / "made").exists()


def test_what_a_killed_build_left_is_swept_by_the_next_one_of_anything(root):
    dead = root / ".thing-0123456789ab.part"
    dead.mkdir(parents=True)
    (dead / "half").write_text("")

    made = cache.artifact("other", ["x"], Build())

    assert left(root) == [made.name]


def test_what_a_killed_build_left_of_the_same_is_not_taken_over(root):
    ready = cache.artifact("thing", ["x"], Build())
    ready.rename(root / f".{ready.name}.part")
    (root / f".{ready.name}.part" / "half").write_text("")

    again = cache.artifact("thing", ["x"], Build())

    assert (again, [p.name for p in again.iterdir()]) == (ready, ["made"])


def test_a_build_under_way_is_not_swept(root):
    found = []

    def build(out):
        cache.artifact("other", ["x"], Build())
        found.append(out.exists())

    cache.artifact("thing", ["x"], build)

    assert found == [True]


def test_two_that_want_the_same_build_it_once(root, capsys):
    begun, go_on = threading.Event(), threading.Event()
    second = Build()

    def first(out):
        begun.set()
        go_on.wait(10)
        (out / "made").write_text("first")

    made = []
    one = threading.Thread(target=lambda: made.append(cache.artifact("thing", ["x"], first)))
    other = threading.Thread(target=lambda: made.append(cache.artifact("thing", ["x"], second)))
    one.start()
    begun.wait(10)
    other.start()
    waits = any("waiting for it" in said(capsys, other) for _ in range(TRIES))
    go_on.set()
    one.join(10)
    other.join(10)

    assert waits
    assert second.count == 0
    assert made[0] == made[1]


def test_texts_and_files_are_told_apart_and_their_order_counts(tmp_path):
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_text("x")
    other.write_text("x")
    inputs = [["x"], [file], [other], ["x", "y"], ["y", "x"], ["xy"], ["x", file], [file, "x"], []]

    assert len({cache.digest(each) for each in inputs}) == len(inputs)


def test_a_files_digest_is_of_its_name_and_contents_and_not_of_its_place(tmp_path):
    (tmp_path / "sub").mkdir()
    here, there = tmp_path / "a", tmp_path / "sub" / "a"
    here.write_text("x")
    there.write_text("x")
    same = cache.digest([here]) == cache.digest([there])

    there.write_text("y")

    assert same
    assert cache.digest([here]) != cache.digest([there])


@pytest.mark.parametrize("chosen", ["", "relative/cache"])
def test_a_cache_directory_that_does_not_count_falls_back_to_the_users(chosen, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert cache.root() == Path(os.environ["HOME"]) / ".cache" / "orchestrator-lab"
