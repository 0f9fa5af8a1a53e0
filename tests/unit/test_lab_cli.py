"""The lab's command line: what ends all of it, and what refuses to remove what is in use."""

import pytest

from lab import cli
from lab.api import cli as api
from lab.state import Cluster


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    return tmp_path / "orchestrator-lab"


@pytest.fixture
def control_plane(home):
    """One of the API tier, left half made."""
    place = home / "run" / "api" / "mine"
    place.mkdir(parents=True)
    return place


def test_down_all_takes_control_planes_of_the_api_tier_too(control_plane, capsys):
    code = cli.main(["down", "--all"])

    assert code == 0
    assert api.names() == ()
    assert "control plane mine is gone" in capsys.readouterr().err


def test_down_of_one_cluster_leaves_control_planes_alone(control_plane):
    code = cli.main(["down", "--name", "mine"])

    assert code == 0
    assert control_plane.exists()


def test_clean_refuses_while_a_control_plane_is_there(control_plane, home, capsys):
    code = cli.main(["clean"])

    said = capsys.readouterr().err
    assert code == 1
    assert "still up: control plane mine" in said
    assert "remedy: python -m lab down --all" in said
    assert control_plane.exists()


def test_clean_refuses_while_a_cluster_is_there_and_names_both_kinds(control_plane, capsys):
    Cluster("lab", "1+2", "1.36.3", ("1.36.3",), "node:1", 1).save()

    code = cli.main(["clean"])

    assert code == 1
    assert "still up: cluster lab, control plane mine" in capsys.readouterr().err


def test_clean_removes_all_that_was_built_when_nothing_is_up(home):
    (home / "built-123").mkdir(parents=True)

    code = cli.main(["clean"])

    assert code == 0
    assert not home.exists()


@pytest.mark.parametrize("word", ["up", "api", "demo", "bench", "ssh"])
def test_every_part_has_its_help(word, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([word, "--help"])

    assert ended.value.code == 0
    assert f"python -m lab {word}" in capsys.readouterr().out
