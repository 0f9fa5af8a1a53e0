"""Who has vouched for which host key."""

import base64

import pytest

from orchestrator.errors import HostKeyChanged, HostKeyUnknown, Refused
from orchestrator.hosts import known
from orchestrator.hosts.known import HostKey, Verdict, covers, demand_known, hashed, judge, kinds, parse, with_keys

OLD, NEW = HostKey("ssh-ed25519", b"the old key"), HostKey("ssh-ed25519", b"the new key")
RSA = HostKey("ssh-rsa", b"an RSA key")


def line(names, key=OLD, marker=""):
    return f"{marker} {names} {key.kind} {base64.b64encode(key.blob).decode()} a comment\n".lstrip()


def entries(*lines):
    return parse("".join(lines), "known_hosts")


@pytest.mark.parametrize(
    ("names", "name", "expected"),
    [
        ("node-1", "node-1", True),
        ("node-1", "node-10", False),
        ("NODE-1", "node-1", True),
        ("a,node-1,10.0.0.1", "10.0.0.1", True),
        ("node-*", "node-1", True),
        ("node-?", "node-10", False),
        ("node-*,!node-1", "node-1", False),
        ("!node-1", "node-2", False),
        ("[10.0.0.1]:2222", "[10.0.0.1]:2222", True),
        ("10.0.0.1", "[10.0.0.1]:2222", False),
        ("[10.0.0.*]:22*", "[10.0.0.9]:2222", True),
        (hashed("node-1", b"s" * 20), "node-1", True),
        (hashed("node-1", b"s" * 20), "node-2", False),
        ("|1|broken", "node-1", False),
        ("|1|c2FsdA==|!!", "node-1", False),
    ],
)
def test_a_line_speaks_of_the_hosts_that_its_patterns_match(names, name, expected):
    assert covers(names, name) is expected


def test_a_host_is_called_with_its_port_unless_that_is_the_usual_one():
    assert known.known_name("Node-1", 22) == "node-1"
    assert known.known_name("10.0.0.1", 2222) == "[10.0.0.1]:2222"


def test_comments_and_lines_that_cannot_be_read_say_nothing():
    assert entries("# a comment\n", "\n", "node-1\n", "node-1 ssh-rsa\n", "node-1 ssh-rsa not-base64\n") == ()


def test_files_that_are_not_there_say_nothing(tmp_path):
    assert known.load([tmp_path / "none", tmp_path / "none" / "below"]) == ()


@pytest.mark.parametrize(
    ("lines", "key", "expected"),
    [
        ([], OLD, Verdict.UNKNOWN),
        ([line("node-2")], OLD, Verdict.UNKNOWN),
        ([line("node-1")], OLD, Verdict.KNOWN),
        ([line("node-1")], NEW, Verdict.CHANGED),
        ([line("node-1", RSA)], NEW, Verdict.CHANGED),
        ([line("node-1"), line("node-1", NEW)], NEW, Verdict.KNOWN),
        ([line("*", OLD, "@revoked"), line("node-1")], OLD, Verdict.REVOKED),
        ([line("*", OLD, "@revoked"), line("node-1", NEW)], NEW, Verdict.KNOWN),
        ([line("*", RSA, "@cert-authority")], OLD, Verdict.UNKNOWN),
    ],
)
def test_a_key_is_judged_by_all_lines_that_speak_of_its_host(lines, key, expected):
    assert judge(entries(*lines), "node-1", key)[0] is expected


def test_a_known_key_passes():
    demand_known(entries(line("node-1")), "node-1", "node-1", OLD)


def test_an_unknown_key_stops_with_its_fingerprint_and_the_command_that_accepts_it():
    with pytest.raises(HostKeyUnknown, match=r"SHA256:") as caught:
        demand_known((), "node-1", "[10.0.0.1]:2222", OLD)

    assert "node-1 ([10.0.0.1]:2222)" in str(caught.value)
    assert OLD.fingerprint in str(caught.value)
    assert "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub" in caught.value.remedy
    assert "orchestrator hosts trust node-1" in caught.value.remedy


def test_a_changed_key_stops_with_both_fingerprints_and_the_line():
    with pytest.raises(HostKeyChanged, match="known_hosts:1") as caught:
        demand_known(entries(line("node-1")), "node-1", "node-1", NEW)

    assert OLD.fingerprint in str(caught.value)
    assert NEW.fingerprint in str(caught.value)
    assert "--replace" in caught.value.remedy


def test_a_revoked_key_is_never_accepted_by_a_command():
    with pytest.raises(HostKeyChanged, match="revoked") as caught:
        demand_known(entries(line("*", OLD, "@revoked")), "node-1", "node-1", OLD)

    assert "trust" not in caught.value.remedy


def test_a_certificate_authority_is_said_to_be_of_no_use():
    with pytest.raises(HostKeyUnknown, match="host certificates are not supported"):
        demand_known(entries(line("*", RSA, "@cert-authority")), "node-1", "node-1", OLD)


@pytest.mark.parametrize(("kind", "file"), [("ssh-rsa", "rsa"), ("ecdsa-sha2-nistp256", "ecdsa")])
def test_the_file_to_compare_with_is_the_one_of_the_keys_kind(kind, file):
    with pytest.raises(HostKeyUnknown) as caught:
        demand_known((), "node-1", "node-1", HostKey(kind, b"x"))

    assert f"ssh_host_{file}_key.pub" in caught.value.remedy


def test_kinds_that_are_known_are_asked_for_in_their_order():
    lines = entries(line("node-1", RSA), line("node-1"), line("node-1", NEW), line("*", OLD, "@revoked"))

    assert kinds(lines, "node-1") == ("ssh-rsa", "ssh-ed25519")


# ---- changes ----------------------------------------------------------------------------------------------------


def changed(text, *keys, replace=False, salt=b""):
    return with_keys(text, "known_hosts", "node-1", keys, replace=replace, salt=salt)


def test_new_keys_go_to_the_end_and_known_ones_nowhere():
    text = "# mine\n" + line("node-1")

    assert changed(text, OLD) == text
    assert changed(text, OLD, RSA) == text + line("node-1", RSA).replace(" a comment", "")


def test_a_last_line_without_an_end_is_not_run_into():
    assert changed("# mine", OLD).splitlines()[0] == "# mine"


def test_names_can_be_hashed():
    (entry,) = parse(changed("", OLD, salt=b"s" * 20), "")

    assert entry.names.startswith("|1|")
    assert entry.covers("node-1")


def test_other_keys_of_the_name_go_only_when_that_is_asked_for():
    text = line("node-1") + line("node-2")

    assert judge(parse(changed(text, NEW), ""), "node-1", OLD)[0] is Verdict.KNOWN
    assert changed(text, NEW, replace=True) == line("node-2") + line("node-1", NEW).replace(" a comment", "")


def test_other_hosts_keep_a_line_that_one_leaves():
    text = line("a,node-1,10.0.0.1") + line(hashed("node-1", b"s" * 20))

    assert changed(text, NEW, replace=True).splitlines()[0] == line("a,10.0.0.1").rstrip()


def test_revocations_stay():
    text = line("*", OLD, "@revoked")

    assert changed(text, NEW, replace=True).startswith(text)


def test_a_pattern_for_many_hosts_is_not_changed_for_one():
    with pytest.raises(Refused, match=r"node-\*"):
        changed(line("node-*"), NEW, replace=True)


def test_a_file_is_made_private_and_keeps_its_mode_and_its_link_later(tmp_path):
    path, link = tmp_path / "ssh" / "real", tmp_path / "known_hosts"
    link.symlink_to(path)

    known.trust(link, "node-1", [OLD], replace=False)
    assert path.stat().st_mode & 0o777 == 0o600

    path.chmod(0o644)
    known.trust(link, "node-1", [RSA], replace=False, hash_names=True)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o644
    assert [judge(known.load([link]), "node-1", key)[0] for key in (OLD, RSA)] == [Verdict.KNOWN] * 2
    assert list(path.parent.iterdir()) == [path]
