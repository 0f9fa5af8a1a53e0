"""The scripts that an upgrade has a host carry out, with programs that only note what they are told.

What the real programs do with that, the lab shows.
"""

import pytest

from orchestrator.actions.hasten import HASTENED, RESTART
from orchestrator.actions.packages import _PREFETCH, INSTALL
from orchestrator.cluster import queries
from tests.fakes.scripthost import NOT_FETCHED, ScriptHost

WANTED = "kubelet=1.37.2-*"


@pytest.fixture
def host(tmp_path):
    return ScriptHost(tmp_path)


# ---- installing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("held", "holds"), [("kubelet kubectl", ["apt-mark hold kubelet kubectl"]), ("", [])])
def test_packages_are_installed_from_their_sources_and_held_again(host, held, holds):
    assert host.run(INSTALL, held, "/etc/apt/a.list /etc/apt/b.list", WANTED) == 0

    assert asked(host) == ["apt-get update", "apt-get update", f"apt-get install {WANTED}"]
    assert host.did("apt-mark") == holds


def asked(host):
    """What apt-get was told to do, without the question for what it would have to fetch."""
    (question, *rest) = host.did("apt-get")
    assert question == f"apt-get install {WANTED}"
    return rest


def test_what_was_fetched_is_installed_whatever_became_of_its_repository(host):
    host.program("apt-get", "[ $1 != update ] || exit 100")

    assert host.run(INSTALL, "", "/etc/apt/a.list", WANTED) == 0

    assert asked(host) == [f"apt-get install {WANTED}"]


def test_lists_that_do_not_know_the_version_are_read_again(host):
    host.program("apt-get", 'case "$*" in *" --print-uris "*) exit 100 ;; esac')

    assert host.run(INSTALL, "", "/etc/apt/a.list", WANTED) == 0

    assert asked(host) == ["apt-get update", f"apt-get install {WANTED}"]


def test_what_was_left_unfinished_is_finished_first(host):
    host.program("dpkg", '[ "$1" != --audit ] || echo kubelet is only half configured')

    assert host.run(INSTALL, "", "/etc/apt/a.list", WANTED) == 0

    assert host.log.read_text().splitlines()[1] == "dpkg --configure -a"


@pytest.mark.parametrize("verb", ["update", "install"])
def test_holds_are_back_whatever_fails_and_the_failure_is_told(host, verb):
    host.program("apt-get", f'{NOT_FETCHED}[ "$1" != {verb} ] || exit 100')

    assert host.run(INSTALL + RESTART, "kubelet", "/etc/apt/a.list", WANTED) == 100

    assert host.did()[-1] == "apt-mark hold kubelet"
    assert host.did("systemctl") == []


def test_holds_are_back_when_the_command_is_ended_for_taking_too_long(host):
    host.program("apt-get", "[ $1 != install ] || sleep 20")

    assert host.run(INSTALL, "kubelet", "/etc/apt/a.list", WANTED, timeout_s=1.0) == 124

    assert host.did("apt-mark") == ["apt-mark hold kubelet"]


def test_a_kubelet_is_restarted_when_its_package_is_there_and_held(host):
    assert host.run(INSTALL + RESTART, "kubelet", "/etc/apt/a.list", WANTED) == 0

    assert host.did("apt-mark", "systemctl") == [
        "apt-mark hold kubelet",
        "systemctl daemon-reload",
        "systemctl restart kubelet",
    ]


def test_a_kubelet_that_does_not_restart_is_told(host):
    host.program("systemctl", '[ "$1" != restart ] || exit 5')

    assert host.run(INSTALL + RESTART, "kubelet", "/etc/apt/a.list", WANTED) == 5


# ---- beside the host's own lists --------------------------------------------------------------------------------

PREFETCH = (_PREFETCH, "1.37", "v1.37.2", "no", WANTED)
OFFERS = (queries.OFFERS.script, "1.37")


def updating(host, then):
    """An apt-get whose update does something; and the directory that the script makes for itself."""
    made = host.directory / "made"
    host.program("mktemp", f"mkdir {made}; echo {made}")
    host.program("apt-get", f'for word in "$@"; do [ "$word" != update ] || {then}; done')
    return made


def test_what_the_packages_need_beside_themselves_is_fetched_with_them(host):
    lines = (
        "'http://a/k.deb' kubelet_1.37.2-1.1_amd64.deb 9 X",
        "'http://a/c.deb' kubernetes-cni_1.9.0-1.1_amd64.deb 9 X",
    )
    said = "\n".join(f'echo "{line}"' for line in lines)
    host.program("apt-get", f'case "$*" in *" --print-uris "*) {said};; esac')

    host.run(*PREFETCH)

    assert host.did("apt-get")[-1] == f"apt-get download {WANTED} kubernetes-cni=1.9.0-1.1"


def test_what_cannot_be_fetched_is_told_and_nothing_is_left(host):
    made = updating(host, "exit 100")

    assert host.run(*PREFETCH) == 100

    assert not made.exists()
    assert host.did("apt-mark") == []


@pytest.mark.parametrize("script", [PREFETCH, OFFERS])
def test_nothing_is_left_of_what_is_ended_for_taking_too_long(host, script):
    made = updating(host, "sleep 20")

    assert host.run(*script, timeout_s=1.0) == 124

    assert "apt-get update" in host.did("apt-get")[0]
    assert not made.exists()


# ---- kubeadm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rc", [0, 1])
def test_kubeadm_ends_as_it_ends_with_whatever_runs_beside_it(host, rc):
    host.program("kubeadm", f"exit {rc}")

    assert host.run(HASTENED, "cp-1", "kubeadm", "upgrade", "apply", "v1.37.2") == rc

    assert host.did("kubeadm") == ["kubeadm upgrade apply v1.37.2"]
