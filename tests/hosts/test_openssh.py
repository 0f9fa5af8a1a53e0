"""What OpenSSH's own programs and servers make of it: keys, jumps, agents, connections that break."""

import os
import subprocess
import threading
from contextlib import contextmanager

import pytest

from lab.processes import TIED_TO_US, wait_for
from orchestrator.errors import HostAuthFailed, HostConnectionLost, HostKeyChanged, HostKeyUnknown, HostUnreachable
from orchestrator.hosts import known
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.keyring import Keyring
from orchestrator.hosts.secrets import Secrets
from orchestrator.hosts.ssh import Switchboard
from tests.fakes.hosts import over_ssh

pytestmark = pytest.mark.sshd
LONG_S = 30.0


def keygen(path, *more, passphrase="", kind="ed25519"):
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", path, *more], check=True)
    return path


def accept(server, key):
    with server.authorized_keys.open("a") as file:
        file.write(key.with_name(f"{key.name}.pub").read_text())


def whoami(host):
    return host.run(["id", "-un"], timeout_s=LONG_S).text


# ---- host keys --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_any_kind_of_key_may_be_the_one_that_is_known(server, config, known_hosts, kind):
    lines = [line for line in server.known_hosts.splitlines(keepends=True) if kind in line]
    known_hosts.write_text("".join(lines))

    assert whoami(over_ssh(config)) == server.user


def test_an_unknown_key_stops_and_is_shown_as_ssh_keygen_shows_it(server, config, known_hosts):
    known_hosts.write_text("")

    with pytest.raises(HostKeyUnknown) as caught:
        whoami(over_ssh(config))

    shown = subprocess.run(
        ["ssh-keygen", "-lf", server.host_key("ed25519")], capture_output=True, text=True, check=True
    ).stdout
    assert shown.split()[1] in str(caught.value)


def test_a_changed_key_stops(server, config, known_hosts, tmp_path):
    other = keygen(tmp_path / "other").with_suffix(".pub").read_text().split()[:2]
    known_hosts.write_text(f"[127.0.0.1]:{server.port} {' '.join(other)}\n")

    with pytest.raises(HostKeyChanged):
        whoami(over_ssh(config))


def test_a_revoked_key_stops_though_it_is_known(server, config, known_hosts):
    (ed25519,) = [line for line in server.known_hosts.splitlines() if "ed25519" in line]
    known_hosts.write_text(f"{ed25519}\n@revoked * {ed25519.split(' ', 1)[1]}\n")

    with pytest.raises(HostKeyChanged, match="revoked"):
        whoami(over_ssh(config))


def test_all_keys_of_a_server_are_shown_to_whoever_is_asked_to_trust_it(server, config):
    keys = Switchboard(Keyring(Secrets())).keys(SshConfig(config, None).route("node-1"))

    lines = {(line.split()[1], line.split()[2]) for line in server.known_hosts.splitlines()}
    assert {k.kind for k in keys} == {kind for kind, _ in lines}
    assert known.with_keys("", "", "x", keys, replace=False).split()[2::3] == [dict(lines)[k.kind] for k in keys]


def test_names_are_hashed_as_ssh_keygen_hashes_them(known_hosts, server):
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known_hosts], check=True, capture_output=True)

    entries = known.load([known_hosts])

    assert entries
    assert all(e.names.startswith("|1|") and e.covers(f"[127.0.0.1]:{server.port}") for e in entries)


def test_what_is_read_of_settings_is_what_ssh_reads(tmp_path):
    path = tmp_path / "config"
    path.write_text(
        "Host node-*\n HostName %h.example\n User ann\nHost !node-2 *\n Port 2222\nMatch host *.example\n User bob\n"
    )
    found = SshConfig(path, None).route("node-1")[-1]

    shown = subprocess.run(["ssh", "-G", "-F", path, "node-1"], capture_output=True, text=True, check=True).stdout

    seen = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    assert (seen["hostname"], int(seen["port"]), seen["user"]) == (found.address, found.port, found.user)


# ---- logins -----------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_accepted_is_named(config, server, tmp_path):
    wrong = keygen(tmp_path / "wrong")
    config.write_text(config.read_text().replace(str(server.client_key), str(wrong)))

    with pytest.raises(HostAuthFailed, match="wrong") as caught:
        whoami(over_ssh(config))

    assert "ssh -v" in caught.value.remedy


def test_without_any_key_it_says_so(config, server, tmp_path):
    config.write_text(config.read_text().replace(str(server.client_key), str(tmp_path / "none")))

    with pytest.raises(HostAuthFailed, match="there is none to try"):
        whoami(over_ssh(config))


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_a_passphrase_is_asked_for_once(config, server, tmp_path, kind):
    locked = keygen(tmp_path / "locked", passphrase="open sesame", kind=kind)
    accept(server, locked)
    config.write_text(config.read_text().replace(str(server.client_key), str(locked)))
    asked = []

    def ask(prompt):
        asked.append(prompt)
        return "open sesame"

    host = over_ssh(config, secrets=Secrets(ask))
    assert whoami(host) == server.user
    host.close()
    assert whoami(host) == server.user
    assert asked == [f"passphrase of {locked}"]


@pytest.mark.parametrize("answer", [None, "wrong"])
def test_a_key_that_stays_locked_is_an_error_without_the_passphrase_in_it(config, server, tmp_path, answer):
    locked = keygen(tmp_path / "locked", passphrase="open sesame")
    config.write_text(config.read_text().replace(str(server.client_key), str(locked)))

    with pytest.raises(HostAuthFailed, match="passphrase") as caught:
        whoami(over_ssh(config, secrets=Secrets(answer and (lambda _: answer))))

    assert "wrong" not in str(caught.value)


@contextmanager
def agent(directory, *keys):
    """An ssh-agent that holds keys; its socket."""
    path = directory / "agent"
    with subprocess.Popen([*TIED_TO_US, "ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL) as process:
        try:
            wait_for("the agent", path.exists, timeout_s=10, pause_s=0.01, remedy="")
            env = {**os.environ, "SSH_AUTH_SOCK": str(path)}
            subprocess.run(["ssh-add", "-q", *keys], env=env, check=True, stdin=subprocess.DEVNULL)
            yield path
        finally:
            process.terminate()


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_an_agent_s_key_opens(config, server, tmp_path, kind):
    mine, others = keygen(tmp_path / "mine", kind=kind), keygen(tmp_path / "others")
    accept(server, mine)
    with agent(tmp_path, others, mine) as path:
        text = config.read_text().replace("IdentityAgent none", f"IdentityAgent {path}")
        text = text.replace("IdentitiesOnly yes", "IdentitiesOnly no")
        config.write_text(text.replace(str(server.client_key), str(tmp_path / "none")))
        mine.unlink()

        assert whoami(over_ssh(config)) == server.user


def test_of_the_agent_only_named_keys_are_offered_where_that_is_set(config, server, tmp_path):
    mine = keygen(tmp_path / "mine")
    accept(server, mine)
    with agent(tmp_path, mine) as path:
        text = config.read_text().replace("IdentityAgent none", f"IdentityAgent {path}")
        config.write_text(text.replace(str(server.client_key), str(tmp_path / "none")))

        with pytest.raises(HostAuthFailed, match="there is none to try"):
            whoami(over_ssh(config))


# ---- ways -------------------------------------------------------------------------------------------------------


def test_a_way_over_two_hosts_checks_each_of_them(server, other_server, tmp_path, known_hosts):
    config = tmp_path / "jumps"
    config.write_text(
        server.ssh_config(known_hosts, alias="first second")
        + other_server.ssh_config(known_hosts, alias="node-1")
        + "  ProxyJump first,second\n"
    )

    with pytest.raises(HostKeyUnknown, match="node-1"):
        whoami(over_ssh(config))
    known_hosts.write_text(server.known_hosts + other_server.known_hosts)
    host = over_ssh(config)
    assert whoami(host) == other_server.user
    assert host.run(["printenv", "SSH_CONNECTION"], timeout_s=LONG_S).text.endswith(str(other_server.port))
    known_hosts.write_text(other_server.known_hosts)
    with pytest.raises(HostKeyUnknown, match="first"):
        whoami(over_ssh(config))


def test_a_command_may_make_the_connection(server, tmp_path, known_hosts):
    config = tmp_path / "proxied"
    relay = f"ssh -F {tmp_path}/relay -W %h:%p relay"
    (tmp_path / "relay").write_text(server.ssh_config(known_hosts))
    config.write_text(server.ssh_config(known_hosts, alias="node-1") + f"  ProxyCommand {relay}\n")

    host = over_ssh(config)

    assert whoami(host) == server.user
    host.close()


def test_a_command_that_makes_no_connection_is_quoted(server, tmp_path, known_hosts):
    config = tmp_path / "proxied"
    config.write_text(
        server.ssh_config(known_hosts, alias="node-1") + "  ProxyCommand sh -c 'echo no way to %h >&2; exit 1'\n"
    )

    with pytest.raises(HostUnreachable, match=r"no way to 127\.0\.0\.1"):
        whoami(over_ssh(config))


# ---- connections that break -------------------------------------------------------------------------------------


def test_a_connection_that_breaks_under_a_command_is_not_taken_for_its_end(server, host):
    started = threading.Event()
    cutter = threading.Thread(target=lambda: started.wait(LONG_S) and server.cut())
    cutter.start()

    with pytest.raises(HostConnectionLost, match="while a command ran"):
        host.run(["sh", "-c", "echo started; sleep 20"], timeout_s=LONG_S, on_line=lambda _: started.set())
    cutter.join()

    assert whoami(host) == server.user


def test_a_connection_that_broke_meanwhile_is_made_anew(server, host):
    before = set(server.sessions())  # of tests before, which have not ended yet
    whoami(host)
    ours = set(server.sessions()) - before
    server.cut()

    assert whoami(host) == server.user
    assert len(ours) == 1
    assert set(server.sessions()) - before - ours


def test_one_connection_serves_many_commands_at_once(server, host):
    before = set(server.sessions())  # of tests before, which have not ended yet
    whoami(host)
    threads = [threading.Thread(target=whoami, args=(host,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(server.sessions()) - before) == 1
