"""How a host is reached by the user's own settings."""

import getpass
from pathlib import Path

import pytest

from orchestrator.errors import BadUsage
from orchestrator.hosts.config import SshConfig


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def route(text, alias="node-1", address="", system=None):
    path = Path("~/.ssh/config").expanduser()
    path.write_text(text)
    return SshConfig(path, system).route(alias, address)


def hop(text, alias="node-1", address=""):
    return route(text, alias, address)[-1]


def test_without_settings_openssh_s_defaults_hold(home):
    for name in ("id_rsa", "id_ed25519"):
        (home / ".ssh" / name).touch()

    found = hop("")

    assert (found.address, found.port, found.user) == ("node-1", 22, getpass.getuser())
    assert [p.name for p in found.key_files] == ["id_rsa", "id_ed25519"]
    assert found.known_files[0] == home / ".ssh/known_hosts"
    assert (found.agent, found.identities_only, found.hash_names, found.proxy_command) == ("", False, False, "")


def test_a_node_is_where_the_cluster_says_unless_the_settings_know_better():
    assert hop("", address="10.0.0.5").address == "10.0.0.5"
    assert hop("Host node-1\n HostName n1.example\n", address="10.0.0.5").address == "n1.example"


def test_settings_may_be_for_the_name_or_for_the_address():
    text = "Host 10.0.*\n User core\nHost node-*\n Port 2222\nHost *\n User me\n"

    found = hop(text, address="10.0.0.5")

    assert (found.user, found.port, found.key_name) == ("core", 2222, "[10.0.0.5]:2222")


def test_what_a_node_is_called_in_known_hosts_can_be_set():
    assert hop("Host *\n HostKeyAlias Vault\n Port 2222\n").key_name == "vault"


def test_every_setting_is_read(home, monkeypatch):
    (home / "my key").touch()
    monkeypatch.setenv("MY_AGENT", "/run/agent")
    text = (
        'Host node-1\n  IdentityFile "~/my key"\n  IdentitiesOnly yes\n  IdentityAgent $MY_AGENT\n'
        "  UserKnownHostsFile ~/a ~/b\n  GlobalKnownHostsFile none\n  HashKnownHosts yes\n  ConnectTimeout 3\n"
    )

    found = hop(text)

    assert found.key_files == (home / "my key",)
    assert (found.identities_only, found.agent, found.hash_names, found.connect_s) == (True, "/run/agent", True, 3.0)
    assert found.known_files == (home / "a", home / "b")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("none", ""), ("SSH_AUTH_SOCK", "/run/default"), ("/run/own", "/run/own"), (None, "/run/default")],
)
def test_the_agent_is_the_one_that_is_set(setting, expected, monkeypatch):
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/default")

    assert hop(f"IdentityAgent {setting}\n" if setting else "").agent == expected


def test_jumps_are_followed_in_order_each_with_its_own_settings():
    text = (
        "Host node-*\n ProxyJump first,ann@second:2200\nHost first\n User f\n ProxyJump outer\nHost second\n Port 99\n"
    )

    way = route(text)

    assert [h.alias for h in way] == ["outer", "first", "second", "node-1"]
    assert (way[1].user, way[2].user, way[2].port) == ("f", "ann", 2200)


def test_a_jump_may_be_written_as_an_address_or_be_none():
    assert [h.alias for h in route("Host *-1\n ProxyJump ssh://ann@[::1]:2200\n")] == ["::1", "node-1"]
    assert len(route("Host node-1\n ProxyJump none\nHost *\n ProxyJump first\n")) == 1


def test_a_proxy_command_gets_the_names():
    assert hop("ProxyCommand nc -X 5 %h %p %n %%\nHostName n1\n").proxy_command == "nc -X 5 n1 22 node-1 %"
    assert hop("ProxyCommand none\n").proxy_command == ""


def test_included_files_stand_where_they_are_included(home):
    (home / ".ssh/conf.d").mkdir()
    (home / ".ssh/conf.d/a").write_text("Host node-1\n User from-a\n")
    (home / ".ssh/conf.d/b").write_text("Host node-1\n User from-b\n Port 7\n")

    found = hop("Include conf.d/*\nHost *\n User me\n")

    assert (found.user, found.port) == ("from-a", 7)


def test_an_include_inside_a_block_that_has_no_blocks_of_its_own_holds_for_that_block(home):
    (home / ".ssh/more").write_text("Port 7\n")
    text = "Host node-1\n Include ~/.ssh/more\n User ann\nHost *\n User me\n"

    assert (hop(text).port, hop(text).user, hop(text, "node-2").port) == (7, "ann", 22)


def test_the_system_s_settings_come_last(home):
    system = home / "ssh_config"
    system.write_text("User other\nPort 7\n")

    found = route("Host node-1\n User me\n", system=system)[-1]

    assert (found.user, found.port) == ("me", 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Port many\n", "port many"),
        ("Port 70000\n", "port 70000"),
        ("HostName -oProxyCommand=x\n", "no name"),
        ("User a;b\n", "no name"),
        ("ProxyJump a:b:c\n", "ProxyJump"),
        ("Host a\n ProxyJump b\nHost b\n ProxyJump a\nHost node-1\n ProxyJump a\n", "circle"),
        ("Host 'a\n", "config"),
        ("Include config\n", "itself"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(text, message):
    with pytest.raises(BadUsage, match=message):
        route(text)


def test_names_that_a_shell_would_read_are_refused():
    with pytest.raises(BadUsage, match="no name"):
        hop("ProxyCommand nc %h\n", alias="$(reboot)")


def test_blocks_included_into_a_block_are_refused(home):
    (home / ".ssh/more").write_text("Host x\n Port 7\n")

    with pytest.raises(BadUsage, match="blocks of its own"):
        hop("Host node-1\n Include more\n")


def test_a_file_that_cannot_be_read_is_an_error(home):
    path = home / ".ssh" / "config"
    path.mkdir()

    with pytest.raises(BadUsage, match="cannot be read"):
        SshConfig(path, None)
