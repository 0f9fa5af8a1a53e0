"""Who one is and whom one asks: what a person is told when that is wrong. Real certificates and tokens."""

from datetime import timedelta

import pytest

from lab.api import keys, tier
from tests.api.command import Command

pytestmark = pytest.mark.api


@pytest.fixture
def command_as(plane, tmp_path):
    """Gives the command with these credentials in its kubeconfig."""

    def made(name, credentials):
        return Command(tier.write_kubeconfig(plane, name, credentials, name=name), tmp_path)

    return made


def with_certificate(pair):
    return {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}


def problem(said):
    """The lines of an error, which has to be one error with a remedy, and no traceback."""
    lines = said.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1, said.stderr
    assert any(line.startswith("remedy: ") for line in lines), said.stderr
    assert "Traceback" not in said.stderr
    assert said.stdout == ""
    return said.stderr


def test_a_certificate_of_an_administrator_is_enough(plane, command_as):
    command = command_as("admin", with_certificate(plane.clients.client("admin", ["system:masters"])))

    found = command.json("status")

    assert found["certificates"]["credentials"]["kind"] == "client certificate"
    assert found["certificates"]["credentials"]["ends"] is not None


def test_a_certificate_whose_time_is_over_is_named_with_its_end(plane, command_as):
    pair = plane.clients.client("late", ["system:masters"], valid=timedelta(hours=-1))

    said = problem(command_as("late", with_certificate(pair))("status", code=12))

    assert "does not accept the credentials" in said
    assert "the client certificate ended 20" in said


def test_a_token_that_nobody_knows_is_refused(command_as):
    said = problem(command_as("stranger", {"token": "no-such-token"})("drain", "n1", code=12))

    assert "does not accept the credentials of context lab-api" in said


def test_somebody_without_permissions_is_told_which_is_missing(plane, command_as):
    command = command_as("visitor", with_certificate(plane.clients.client("visitor")))

    said = problem(command("drain", "n1", code=12))

    assert 'cannot get resource "nodes"' in said
    assert "docs/rbac.md" in said


def test_a_server_with_another_certificate_is_not_talked_to(plane, tmp_path):
    (tmp_path / "other").mkdir()
    other = keys.Authority(tmp_path / "other").certificate
    mine = plane.kubeconfig.read_text().replace(str(plane.certificate_authority), str(other))
    (tmp_path / "kubeconfig").write_text(mine)

    said = problem(Command(tmp_path / "kubeconfig", tmp_path)("status", code=12))

    assert "cannot be trusted" in said


def test_the_static_token_of_a_kubeconfig_is_not_said_to_renew_itself(orchestrator):
    found = orchestrator.json("status")

    assert found["certificates"]["credentials"]["renews"] is False
