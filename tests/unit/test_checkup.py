"""What doctor makes of what it found."""

import pytest

from orchestrator.cluster import checkup
from orchestrator.cluster.checkup import Credentials, Level, ServerAnswer

DAY = 86400.0
NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("version", "level", "evidence", "remedy"),
    [
        ((3, 11, 2, "final", 0), Level.OK, "3.11.2", ""),
        ((3, 14, 0), Level.OK, "3.14.0", ""),
        ((4, 0, 0), Level.OK, "4.0.0", ""),
        ((3, 10, 12), Level.FAILED, "3.10.12", "install Python 3.11 or later"),
    ],
)
def test_an_interpreter_is_held_against_the_oldest_that_will_do(version, level, evidence, remedy):
    found = checkup.python(version)

    assert (found.level, found.evidence, found.remedy) == (level, evidence, remedy)


@pytest.mark.parametrize(
    ("mode", "directory", "level", "remedy"),
    [
        (0o600, False, Level.OK, ""),
        (0o400, False, Level.OK, ""),
        (0o700, True, Level.OK, ""),
        (0o640, False, Level.WARNING, "chmod 0600 /x"),
        (0o601, False, Level.WARNING, "chmod 0600 /x"),
        (0o755, True, Level.WARNING, "chmod 0700 /x"),
    ],
)
def test_what_others_can_get_at_is_named_with_the_order_that_shuts_it(mode, directory, level, remedy):
    found = checkup.mode("kubeconfig", "/x", mode, directory=directory)

    assert (found.check, found.level, found.remedy) == ("kubeconfig", level, remedy)
    assert f"(mode {mode:04o})" in found.evidence


@pytest.mark.parametrize(("took_s", "level"), [(0.042, Level.OK), (1.0, Level.OK), (1.001, Level.WARNING)])
def test_a_slow_server_is_told_with_its_time(took_s, level):
    found = checkup.connection("https://x:6443", ServerAnswer("v1.36.3", took_s, None))

    assert found.level is level
    assert f"https://x:6443 answers in {took_s * 1000:.0f} ms" in found.evidence
    assert bool(found.remedy) is (level is not Level.OK)


@pytest.mark.parametrize(
    ("ahead_s", "level", "evidence"),
    [
        (0.0, Level.OK, "within 0 s"),
        (-4.2, Level.OK, "within 5 s"),
        (5.0, Level.OK, "within 5 s"),
        (90.4, Level.WARNING, "90 s behind the server's"),
        (-90.4, Level.WARNING, "90 s ahead of the server's"),
        (None, Level.WARNING, "not known"),
    ],
)
def test_a_clock_is_said_to_be_off_in_the_direction_that_this_machine_is_off(ahead_s, level, evidence):
    found = checkup.clock(ahead_s)

    assert found.level is level
    assert evidence in found.evidence


@pytest.mark.parametrize(
    ("text", "level", "evidence"),
    [
        ("v1.36.3", Level.OK, "v1.36.3; supported: 1.31 to 1.37, tested: 1.36, 1.37"),
        ("v1.31.0-eks-1a2b", Level.OK, "v1.31.0-eks-1a2b; supported"),
        ("v1.30.9", Level.WARNING, "v1.30.9 is not supported"),
        ("v1.38.0", Level.WARNING, "v1.38.0 is not supported"),
        ("v2.36.0", Level.WARNING, "v2.36.0 is not supported"),
        ("nightly", Level.WARNING, "not known (nightly)"),
        ("", Level.WARNING, "not known (the server does not tell)"),
    ],
)
def test_a_server_version_is_supported_or_said_not_to_be(text, level, evidence):
    found = checkup.server_version(text)

    assert found.level is level
    assert found.evidence.startswith(evidence)


@pytest.mark.parametrize(
    ("at", "level", "evidence"),
    [
        (NOW + 400 * DAY, Level.OK, "it ends in 400 days"),
        (NOW + 30 * DAY, Level.OK, "it ends in 30 days"),
        (NOW + 29 * DAY, Level.WARNING, "it ends in 29 days"),
        (NOW + 36 * 3600, Level.WARNING, "it ends in 36 hours"),
        (NOW + 600, Level.WARNING, "it ends in 10 minutes"),
        (NOW + 90, Level.WARNING, "it ends in 90 s"),
        (NOW, Level.FAILED, "it ended 0 s ago"),
        (NOW - 3 * DAY, Level.FAILED, "it ended 3 days ago"),
    ],
)
def test_what_ends_soon_is_to_be_renewed_and_what_has_ended_is_a_fault(at, level, evidence):
    found = checkup.end("certificate", "it", at, NOW, "renew it")

    assert (found.check, found.level, found.evidence) == ("certificate", level, evidence)
    assert found.remedy == ("" if level is Level.OK else "renew it")


def test_an_end_that_cannot_be_told_is_not_taken_for_a_good_one():
    found = checkup.end("certificate", "it", None, NOW, "renew it")

    assert (found.level, found.remedy) == (Level.WARNING, "")


@pytest.mark.parametrize(
    ("found", "level", "evidence"),
    [
        (Credentials("none", None), Level.WARNING, "none: every request is anonymous"),
        (Credentials("client certificate", NOW + 400 * DAY), Level.OK, "client certificate ends in 400 days"),
        (Credentials("client certificate", NOW + DAY), Level.WARNING, "client certificate ends in 24 hours"),
        (Credentials("token", NOW + 600), Level.OK, "token ends in 10 minutes"),
        (Credentials("token", NOW + 90 * DAY), Level.OK, "token ends in 90 days"),
        (Credentials("token", NOW - 600), Level.FAILED, "token ended 10 minutes ago"),
        (Credentials("token", None), Level.WARNING, "token: when it ends is not known from here"),
        (Credentials("token", NOW - 600, renews=True), Level.OK, "token, renewed by its plugin"),
    ],
)
def test_credentials_are_judged_by_when_they_end_and_whether_something_renews_them(found, level, evidence):
    judged = checkup.credentials(found, NOW)

    assert (judged.level, judged.evidence) == (level, evidence)


@pytest.mark.parametrize(
    ("lacking", "level", "evidence"),
    [
        ({}, Level.OK, "all that it needs"),
        ({"patch nodes": ""}, Level.FAILED, "this user may not: patch nodes"),
        ({"delete pods": "--disable-eviction"}, Level.WARNING, "this user may not: delete pods (--disable-eviction)"),
        (
            {"patch nodes": "", "delete pods": "--disable-eviction"},
            Level.FAILED,
            "this user may not: patch nodes; delete pods (--disable-eviction)",
        ),
    ],
)
def test_what_is_lacking_always_is_a_fault_and_what_is_lacking_with_a_flag_is_not(lacking, level, evidence):
    (found,) = checkup.permissions({"drain": lacking})

    assert (found.check, found.level, found.evidence) == ("permissions: drain", level, evidence)
    assert ("drain" in found.remedy) is bool(lacking)


def test_each_command_has_a_finding_of_its_own():
    found = checkup.permissions({"status": {}, "drain": {"patch nodes": ""}})

    assert [(f.check, f.level) for f in found] == [
        ("permissions: status", Level.OK),
        ("permissions: drain", Level.FAILED),
    ]
