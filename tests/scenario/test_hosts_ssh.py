"""SSH against a server in this process: keys, logins, jumps, connections that break, root."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from orchestrator.errors import (
    HostAuthFailed,
    HostConnectionLost,
    HostError,
    HostKeyChanged,
    HostKeyUnknown,
    HostLacks,
    HostUnreachable,
)
from orchestrator.hosts.config import SshConfig
from orchestrator.hosts.keyring import Keyring
from orchestrator.hosts.output import Output
from orchestrator.hosts.secrets import Secrets
from orchestrator.hosts.ssh import SshTransport, Switchboard
from tests.fakes.hosts import local, machine, over_ssh, settings
from tests.fakes.sshd import FakeSshd
from tests.fakes.time import FakeClock

LONG_S = 30.0


@pytest.fixture
def key(tmp_path):
    made = paramiko.ECDSAKey.generate()
    made.write_private_key_file(tmp_path / "id")
    return made


@pytest.fixture
def server(key):
    with FakeSshd(accepts={key.asbytes()}) as made:
        yield made


@pytest.fixture
def config(tmp_path, server):
    (tmp_path / "known_hosts").write_text(server.known)
    return configured(tmp_path, "node-1", server.port)


def configured(tmp_path, alias, port, **more):
    path = tmp_path / "config"
    common = {"IdentityFile": tmp_path / "id", "UserKnownHostsFile": tmp_path / "known_hosts"}
    path.write_text((path.read_text() if path.exists() else "") + settings(alias, port, **common, **more))
    return path


def hello(host):
    return host.run(["echo", "hello"], timeout_s=LONG_S).text


def test_nothing_is_sent_to_a_host_whose_key_is_unknown(config, server, tmp_path):
    (tmp_path / "known_hosts").write_text("")

    with pytest.raises(HostKeyUnknown, match="node-1"):
        hello(over_ssh(config))

    assert (server.offered, server.commands) == ([], [])


def test_nothing_is_sent_to_a_host_whose_key_has_changed(config, server):
    server.keys = [paramiko.ECDSAKey.generate()]

    with pytest.raises(HostKeyChanged, match="node-1"):
        hello(over_ssh(config))

    assert (server.offered, server.commands) == ([], [])


def test_the_kind_of_key_that_is_known_is_asked_for(config, server):
    server.keys.append(paramiko.RSAKey.generate(2048))

    assert hello(over_ssh(config)) == "hello"


def test_all_keys_are_shown(config, server):
    server.keys.append(paramiko.RSAKey.generate(2048))

    shown = Switchboard(Keyring(Secrets())).keys(SshConfig(config, None).route("node-1"))

    assert {k.blob for k in shown} == {k.asbytes() for k in server.keys}


def test_a_refused_login_names_the_keys_that_were_offered(config, server, tmp_path):
    server.accepts.clear()
    server.accepts.add(b"another")

    with pytest.raises(HostAuthFailed, match=str(tmp_path / "id")):
        hello(over_ssh(config))


def test_a_file_that_holds_no_key_is_an_error_of_its_own(config, tmp_path):
    (tmp_path / "id").write_text("not a key")

    with pytest.raises(HostAuthFailed, match="holds no private key"):
        hello(over_ssh(config))


@pytest.mark.parametrize(("answer", "works"), [("open", True), ("shut", False), (None, False)])
def test_a_passphrase_opens_a_key_and_is_asked_for_once(config, key, tmp_path, answer, works):
    key.write_private_key_file(tmp_path / "id", password="open")
    asked = []
    secrets = Secrets(answer and (lambda prompt: asked.append(prompt) or answer))
    host = over_ssh(config, secrets=secrets)

    if works:
        assert hello(host) == "hello"
        host.close()
        assert hello(host) == "hello"
    else:
        with pytest.raises(HostAuthFailed, match="passphrase"):
            hello(host)

    times = 1 if works else 3 if answer else 0
    assert asked == [f"passphrase of {tmp_path / 'id'}"] * times
    assert "open" not in repr(secrets)


def test_a_passphrase_that_was_mistyped_is_asked_for_again(config, key, tmp_path):
    key.write_private_key_file(tmp_path / "id", password="open")
    answers = iter(["opne", "open"])

    assert hello(over_ssh(config, secrets=Secrets(lambda _: next(answers)))) == "hello"


def test_an_agent_that_is_gone_is_no_obstacle(config, tmp_path):
    text = config.read_text().replace("IdentityAgent none", f"IdentityAgent {tmp_path}/no-agent")
    config.write_text(text)

    assert hello(over_ssh(config)) == "hello"


# ---- reaching ---------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_answer_is_tried_for_a_while(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    clock = FakeClock()
    told = []
    host = over_ssh(
        configured(tmp_path, "node-1", port), clock=clock, patience_s=30.0, retried=lambda err, _: told.append(err)
    )

    with pytest.raises(HostUnreachable, match=r"node-1 .*refused"):
        hello(host)

    assert len(told) >= 5
    assert 20 < clock.now() <= 30


def test_a_name_that_nobody_knows_is_unreachable(tmp_path):
    path = tmp_path / "config"
    path.write_text(settings("node-1", 22, UserKnownHostsFile="none").replace("127.0.0.1", "no-such-host.invalid"))

    with pytest.raises(HostUnreachable, match="no-such-host"):
        hello(over_ssh(path))


def test_something_that_does_not_speak_ssh_is_said_so(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 120)
            connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(HostUnreachable, match=r"cannot be reached: .*(protocol|banner)"):
            hello(over_ssh(configured(tmp_path, "node-1", listener.getsockname()[1])))


def test_a_way_over_jumps_is_followed_and_jumps_are_shared(tmp_path, server, key, config):
    with FakeSshd(accepts={key.asbytes()}) as first, FakeSshd(accepts={key.asbytes()}) as second:
        (tmp_path / "known_hosts").write_text(server.known + first.known + second.known)
        configured(tmp_path, "first", first.port)
        configured(tmp_path, "second", second.port)
        configured(tmp_path, "far-*", server.port, ProxyJump="first,second")
        secrets = Secrets()
        board = Switchboard(Keyring(secrets))
        routes = [SshConfig(config, None).route(name) for name in ("far-1", "far-2")]

        hosts = [machine(SshTransport(route, board)) for route in routes]

        assert [hello(h) for h in hosts] == ["hello", "hello"]
        assert (len(first.transports), len(second.transports), len(server.transports)) == (1, 1, 2)
        second.cut()
        assert [hello(h) for h in hosts] == ["hello", "hello"]
        board.close()


def test_a_jump_that_breaks_under_a_command_is_noticed_at_once(tmp_path, server, key, config):
    with FakeSshd(accepts={key.asbytes()}) as first:
        (tmp_path / "known_hosts").write_text(server.known + first.known)
        configured(tmp_path, "first", first.port)
        host = over_ssh(configured(tmp_path, "far", server.port, ProxyJump="first"), "far", patience_s=5.0)
        told = threading.Event()
        cutting = threading.Thread(target=lambda: told.wait(LONG_S) and first.cut(), daemon=True)
        cutting.start()

        with pytest.raises(HostConnectionLost, match="far"):
            host.run(["sh", "-c", "echo begun; sleep 20"], timeout_s=LONG_S, on_line=lambda _: told.set())

        cutting.join()  # else the next connection is cut, too
        assert hello(host) == "hello"


def test_a_jump_that_forbids_it_and_one_that_finds_nobody_are_told_apart(tmp_path, server, key):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (tmp_path / "known_hosts").write_text(server.known)
    configured(tmp_path, "first", server.port)
    config = configured(tmp_path, "node-1", port, ProxyJump="first")

    with pytest.raises(HostUnreachable, match="from first"):
        hello(over_ssh(config))
    server.forwards = False
    with pytest.raises(HostError, match=r"first .* forbids") as caught:
        hello(over_ssh(config))
    assert not caught.value.retryable


def test_a_command_may_make_the_connection(tmp_path, server, key):
    (tmp_path / "known_hosts").write_text(server.known)
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import socket, sys, threading, os\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while d := os.read(0, 65536): s.sendall(d)\n"
        "    s.shutdown(socket.SHUT_WR)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while d := s.recv(65536): os.write(1, d)\n"
    )
    host = over_ssh(configured(tmp_path, "node-1", server.port, ProxyCommand=f"python3 {relay} %h %p"))

    assert hello(host) == "hello"
    host.close()


def test_a_command_that_makes_no_connection_is_quoted(tmp_path, server, key):
    config = configured(tmp_path, "node-1", server.port, ProxyCommand="sh -c 'echo no way >&2; exit 1'")

    with pytest.raises(HostUnreachable, match="no way"):
        hello(over_ssh(config))


# ---- sessions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [1, 10])
def test_more_commands_than_sshd_takes_on_a_connection_wait_for_each_other(config, server, sessions):
    """sshd's own limit is 10; the eleventh must not cost the others their connection."""
    server.sessions = sessions
    host = over_ssh(config)
    hello(host)

    with ThreadPoolExecutor(16) as crew:
        said = list(
            crew.map(lambda n: host.run(["sh", "-c", f"sleep 0.2; echo {n}"], timeout_s=LONG_S).text, range(16))
        )

    assert said == [str(n) for n in range(16)]
    assert len(server.transports) == 1


def test_a_host_that_takes_no_session_at_all_says_so(config, server):
    server.sessions = 0
    transport = SshTransport(SshConfig(config, None).route("node-1"), Switchboard(Keyring(Secrets())))

    with pytest.raises(HostUnreachable, match="it allows no further session"):
        from_now(transport, ["true"], 0.3)


# ---- breaking ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repeatable", [False, True])
def test_a_connection_that_breaks_under_a_command_is_raised_unless_it_may_be_repeated(config, server, repeatable):
    told = threading.Event()
    host = over_ssh(config, patience_s=20.0 if repeatable else 0.0)
    threading.Thread(target=lambda: told.wait(LONG_S) and server.cut(), daemon=True).start()
    argv = ["sh", "-c", "echo begun; sleep 0.4; echo done"]
    how = {"timeout_s": LONG_S, "repeatable": repeatable, "on_line": lambda _: told.set()}

    if repeatable:
        assert host.run(argv, **how).text == "begun\ndone"
    else:
        with pytest.raises(HostConnectionLost, match="node-1"):
            host.run(argv, **how)

    assert len(server.commands) == (2 if repeatable else 1)


def test_a_connection_that_broke_meanwhile_is_made_anew(config, server):
    host = over_ssh(config)
    assert hello(host) == "hello"
    server.cut()

    assert hello(host) == "hello"

    assert len(server.transports) == 2


def test_a_host_that_falls_silent_counts_as_lost_at_the_deadline(config):
    transport = SshTransport(SshConfig(config, None).route("node-1"), Switchboard(Keyring(Secrets())))
    with pytest.raises(HostConnectionLost, match="in time"):
        from_now(transport, ["sleep", "20"], 0.3)

    assert not transport.connected


def from_now(transport, argv, deadline_s):
    with Output() as output:
        return transport.execute(argv, stdin=iter(()), output=output, deadline_s=deadline_s, repeatable=False)


# ---- services ---------------------------------------------------------------------------------------------------


def greeted(stream):
    stream.send(b"hello\n")
    return stream.receive(100)


def test_a_service_is_conversed_with(config, server):
    server.subsystems["echo"] = "cat"

    assert over_ssh(config).converse("echo", greeted, silence_s=LONG_S) == b"hello\n"


def test_a_service_that_ends_has_no_more_to_say(config, server):
    server.subsystems["nothing"] = "exit 0"

    assert over_ssh(config).converse("nothing", lambda stream: stream.receive(100), silence_s=LONG_S) == b""


def test_a_service_that_is_not_offered_is_told_and_not_tried_again(config, server):
    tried = []
    host = over_ssh(config, patience_s=20.0, retried=lambda *what: tried.append(what))

    with pytest.raises(HostLacks, match=r"^node-1: its SSH server offers no sftp$") as caught:
        host.converse("sftp", greeted, silence_s=LONG_S)

    assert "`Subsystem sftp internal-sftp` in node-1's sshd_config" in caught.value.remedy
    assert not tried
    assert hello(host) == "hello"


def test_a_conversation_whose_connection_breaks_is_held_again(config, server):
    server.subsystems["echo"] = "cat"
    held = []

    def talk(stream):
        held.append(greeted(stream))
        if len(held) == 1:
            server.cut()
        return greeted(stream)

    assert over_ssh(config, patience_s=20.0).converse("echo", talk, silence_s=LONG_S) == b"hello\n"
    assert len(held) == 2


def test_a_service_that_says_nothing_is_given_up(config, server):
    server.subsystems["sleep"] = "sleep 20"

    with pytest.raises(HostUnreachable, match="no answer in time"):
        over_ssh(config).converse("sleep", lambda stream: stream.receive(1), silence_s=0.3)


def test_a_server_that_does_not_answer_the_request_is_given_up(config, server):
    server.silent.set()

    with pytest.raises(HostUnreachable, match="no answer in time"):
        over_ssh(config).converse("sftp", greeted, silence_s=0.3)


def test_errors_of_whoever_converses_are_theirs(config, server):
    server.subsystems["echo"] = "cat"

    with pytest.raises(FileNotFoundError):
        over_ssh(config).converse("echo", lambda _: Path("/no/such").read_bytes(), silence_s=LONG_S)


@pytest.mark.parametrize("sessions", [1, 10])
def test_conversations_count_as_sessions(config, server, sessions):
    server.sessions = sessions
    server.subsystems["echo"] = "cat"
    host = over_ssh(config)

    with ThreadPoolExecutor(16) as crew:
        said = list(crew.map(lambda _: host.converse("echo", greeted, silence_s=LONG_S), range(16)))

    assert said == [b"hello\n"] * 16
    assert len(server.transports) == 1


def test_a_server_that_runs_no_commands_is_told_and_not_tried_again(config, server):
    server.refuses = True
    tried = []

    with pytest.raises(HostLacks, match="runs no commands"):
        hello(over_ssh(config, patience_s=20.0, retried=lambda *what: tried.append(what)))

    assert not tried


def test_a_server_that_ran_commands_before_and_refuses_one_now_is_asked_again(config, server):
    host = over_ssh(config)
    hello(host)
    server.refuses = True

    with pytest.raises(HostUnreachable, match="refused"):
        hello(host)


def test_a_machine_without_ssh_has_no_services():
    with pytest.raises(HostLacks, match="this machine: sftp is a service of SSH"):
        local().converse("sftp", greeted, silence_s=LONG_S)
