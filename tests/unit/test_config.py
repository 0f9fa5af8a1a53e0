"""The settings file: what it says, what wins over it, and what is refused with its line."""

import json
import re
from pathlib import Path

import pytest

from orchestrator import config
from orchestrator.cli.main import main
from orchestrator.errors import BadUsage

ROOT = Path(__file__).parents[2]
WHOLE = """\
# how production is backed up
ssh: true
owner: platform
backup:
  to: [s3://backups/prod, "sftp://store/srv/etcd", "cp-1:/var/backups", /srv/etcd]
  recipients:
    - age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
    - "@/etc/backup/recipients"
  keep: daily=7,weekly=4
  compress: false
  recovery-set: false
  metrics-file: /var/lib/node_exporter/etcd.prom
"""


@pytest.fixture
def file(tmp_path):
    """Writes a settings file."""

    def written(text, mode=0o600):
        path = tmp_path / "prod.yaml"
        path.write_text(text)
        path.chmod(mode)
        return path

    return written


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """The command, where nothing is known of any cluster."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def called(*words):
        with pytest.raises(SystemExit) as end:
            main([str(w) for w in words])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return called


def refused(path):
    with pytest.raises(BadUsage) as caught:
        config.settings(path)
    return str(caught.value).removeprefix(str(path))


def test_each_key_stands_for_the_variable_of_its_flag(file):
    assert config.settings(file(WHOLE)) == {
        "ORCHESTRATOR_SSH": True,
        "ORCHESTRATOR_OWNER": "platform",
        "ORCHESTRATOR_BACKUP_TO": ["s3://backups/prod", "sftp://store/srv/etcd", "cp-1:/var/backups", "/srv/etcd"],
        "ORCHESTRATOR_BACKUP_RECIPIENTS": [
            "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p",
            "@/etc/backup/recipients",
        ],
        "ORCHESTRATOR_BACKUP_KEEP": "daily=7,weekly=4",
        "ORCHESTRATOR_BACKUP_COMPRESS": False,
        "ORCHESTRATOR_BACKUP_RECOVERY_SET": False,
        "ORCHESTRATOR_METRICS_FILE": "/var/lib/node_exporter/etcd.prom",
    }


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}\n", "backup: {}\n"])
def test_what_it_does_not_say_is_left_to_the_flags(file, text):
    assert config.settings(file(text)) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ssh: true\nbackup:\n  to: [/x]\n  kepe: last=3\n", ":4: `kepe` is no setting"),
        ("sssh: true\n", ":1: `sssh` is no setting"),
        ("backup:\n  to:\n  - /x\n  - 5\n", ":4: backup.to.1: Expected `str`, got `int`"),
        ("owner: x\nssh: maybe\n", ":2: ssh: Expected `bool`, got `str`"),
        ("backup:\n  to: /srv\n", ":2: backup.to: Expected `array`, got `str`"),
        ("backup:\n  recovery_set: false\n", ":2: `recovery_set` is no setting"),
        ("ssh: true\nowner: x\nssh: false\n", ":3: `ssh` stands in line 1 already"),
        ("backup:\n  keep: last=1\n  keep: last=9\n", ":3: `keep` stands in line 2 already"),
        ("backup:\n  to:\n  - /x\n  - backups/prod\n", ":4: `backups/prod` is not a whole path, nor a URL"),
        ("backup:\n  to: [/x, ~/y]\n", ":2: `~/y` is not a whole path, nor a URL"),
        ("backup:\n  recipients:\n  - '@keys'\n", ":3: `@keys` is not a whole path"),
        ("owner: x\nbackup:\n  metrics-file: etcd.prom\n", ":3: `etcd.prom` is not a whole path"),
        ("- ssh\n", ":1: Expected `object`, got `array`"),
        ("ssh: true\n  owner: x\n", ":2: mapping values are not allowed here"),
        ("a: &a [*a]\n", ":1: `a` is no setting"),
        ("ssh: !!python/object:os.system x\n", ":1: could not determine a constructor"),
        ("ssh: true\n---\nssh: false\n", ":2: but found another document"),
        ("ssh: \x00\n", ":1: unacceptable character"),
        ("[" * 5000, ":1: "),
        ("? [a, b]\n: c\n", ":1: "),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_line(file, text, said):
    assert refused(file(text)).startswith(said)


def test_a_policy_that_cannot_be_meant_is_refused_with_its_line(file):
    told = refused(file("backup:\n  to: [/x]\n  keep: dayly=7\n"))

    assert told.startswith(":3: ")
    assert "dayly" in told


def test_a_file_that_anybody_may_write_to_is_refused(file):
    assert "anybody may write to it" in refused(file("ssh: true\n", 0o666))
    assert config.settings(file("ssh: true\n", 0o664)) == {"ORCHESTRATOR_SSH": True}


def test_a_file_that_is_not_there_or_no_text_is_refused(file, tmp_path):
    assert "cannot be read" in refused(tmp_path / "missing.yaml")
    assert "cannot be read" in refused(tmp_path)
    assert "larger than" in refused(file("#" * (config.MOST_BYTES + 1)))
    binary = file("")
    binary.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refused(binary)


def test_the_schema_beside_it_is_that_of_the_code():
    assert json.loads((ROOT / "orchestrator" / "settings.schema.json").read_text()) == config.schema()


def test_the_page_lists_each_key_and_no_other():
    page = (ROOT / "docs" / "settings.md").read_text()
    named = set(re.findall(r"^\| `([a-z.-]+)`", page, re.MULTILINE))
    found = config.schema()["$defs"]
    keys = {k for k in found["SettingsFile"]["properties"] if k != "backup"}

    assert named == keys | {f"backup.{k}" for k in found["Backup"]["properties"]}


def test_the_example_of_the_page_is_understood(file):
    page = (ROOT / "docs" / "settings.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)

    assert len(config.settings(file(example[1]))) >= 5


# ---- on the command line --------------------------------------------------------------------------------------


def place(tmp_path, name):
    """A destination that can be told from others by its name in what `prune` prints."""
    made = tmp_path / name
    made.mkdir()
    return made


def test_a_flag_wins_over_a_variable_and_a_variable_over_the_file(run, file, tmp_path, monkeypatch):
    one, two, three = (place(tmp_path, n) for n in ("one", "two", "three"))
    settings = file(f"backup:\n  to: [{one}]\n  keep: last=3\n")

    assert str(one) in run("etcd", "prune", "--inventory", settings)[1]
    monkeypatch.setenv("ORCHESTRATOR_BACKUP_TO", str(two))
    said = run("etcd", "prune", "--inventory", settings)[1]
    assert str(two) in said
    assert str(one) not in said
    said = run("etcd", "prune", "--inventory", settings, "--from", three)[1]
    assert str(three) in said
    assert str(two) not in said


def test_a_flag_that_must_be_given_may_stand_in_the_file(run, file):
    assert run("etcd", "prune", "--inventory", file("ssh: true\n"))[0] == 2
    code, out, _ = run("etcd", "prune", "--inventory", file("backup:\n  keep: last=3\n"))

    assert code == 0
    assert out


def test_the_users_own_file_is_read_and_the_variable_names_another(run, file, tmp_path, monkeypatch):
    own, other = place(tmp_path, "own"), place(tmp_path, "other")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    home = place(tmp_path, "config") / "orchestrator"
    home.mkdir()
    (home / "orchestrator.yaml").write_text(f"backup: {{to: [{own}], keep: last=3}}\n")

    assert str(own) in run("etcd", "prune")[1]
    monkeypatch.setenv("ORCHESTRATOR_INVENTORY", str(file(f"backup: {{to: [{other}], keep: last=3}}\n")))
    assert str(other) in run("etcd", "prune")[1]


def test_a_wrong_file_ends_the_command_before_anything_is_sent(run, file):
    code, out, err = run("status", "--inventory", file("backup: {tp: [/x]}\n"))

    assert code == 2
    assert out == ""
    assert "prod.yaml:1: `tp` is no setting" in err
    assert "remedy: docs/settings.md" in err


def test_a_file_that_is_named_and_missing_is_an_error(run, tmp_path):
    code, _, err = run("status", "--inventory", tmp_path / "no.yaml")

    assert code == 2
    assert "no.yaml cannot be read" in err
