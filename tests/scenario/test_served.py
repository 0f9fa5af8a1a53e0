"""A snapshot served for a moment, on this machine, by programs that only pretend: what is left when it goes wrong."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.app import App
from orchestrator.cli.main import main
from orchestrator.engine.host import Completed
from orchestrator.served import MANIFEST
from orchestrator.site import this_machine
from tests.fakes import boltfiles

PROGRAM = str(Path(sys.executable).parent / "orchestrator")
FACTS = Path(__file__).parents[1] / "unit" / "facts" / "etcd"
STATUS = json.dumps([json.loads((FACTS / "status.three.json").read_text())[0]])
#: A snapshot of no higher revision than that etcd tells.
KEYS = (
    boltfiles.Keys()
    .put(b"/registry/deployments/shop/web")
    .put(b"/registry/secrets/shop/db")
    .put(b"/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example.com")
    .put(b"/registry/example.com/widgets/shop/w1")
)
COUNT = 4
KINDS = """deployments deploy apps/v1 true Deployment
secrets v1 true Secret
customresourcedefinitions crd,crds apiextensions.k8s.io/v1 false CustomResourceDefinition
widgets example.com/v1 true Widget"""

ETCD = """[ "$1" != --version ] || { echo "etcd Version: 3.6.8"; exit 0; }
rm -f PLACE/serving
echo $$ >> PLACE/pids; exec sleep 600
"""
ETCDUTL = """[ "$1" != version ] || { echo "etcdutl version: 3.6.8"; exit 0; }
echo restored >> PLACE/calls
[ ! -f PLACE/restore-fails ] || { echo "no space left" >&2; exit 1; }
mkdir data
"""
ETCDCTL = f"""case "$*" in
*health*) exit 0 ;;
*status*) cat << 'END'
{STATUS}
END
;;
*--count-only*--prefix* | *--prefix*--count-only*) echo '"Count" : 1' ;;
*--count-only*) echo '"Count" : {COUNT}' ;;
esac
"""
SERVER = """[ "$1" != --help ] || { echo "MutatingAdmissionWebhook, ValidatingAdmissionWebhook."; exit 0; }
printf '%s\\n' "$@" > PLACE/flags
cat tokens.csv > PLACE/token; cp accounts.key PLACE/; [ ! -f encryption.yaml ] || cp encryption.yaml PLACE/
[ ! -f PLACE/server-fails ] || { echo "E0101 unknown flag" >&2; exit 1; }
echo $$ >> PLACE/pids; : > PLACE/serving; exec sleep 600
"""
KUBECTL = """printf '%s\\n' "$*" >> PLACE/calls
said() { cat "PLACE/$1"; }
case "$*" in
*/readyz*) [ -f PLACE/serving ] && [ ! -f PLACE/never-ready ] ;;
*api-resources*) said kinds ;;
*/version*) echo '"gitVersion": "v1.36.3"' ;;
*--raw*) last=; for last in "$@"; do :; done; said "$(echo "${last%%\\?*}" | tr / _)" ;;
*" -- "*) [ ! -f PLACE/object ] || exec cat PLACE/object; cat PLACE/said >&2; exit 1 ;;
esac
"""
#: containerd's client, whose images all have the programs.
IMAGES = """case "$4" in
mount) mkdir -p "$6/usr/local/bin" && ln -s PLACE/programs/* "$6/usr/local/bin/" ;;
unmount) rm -r "$5/usr" ;;
esac"""
#: The API server's, with keys of encryption that the host has elsewhere.
MOUNTED = """
spec:
  containers:
  - command:
    - kube-apiserver
    - --encryption-provider-config=/in/keys.yaml
    volumeMounts: [{mountPath: /in, name: keys}]
  volumes: [{name: keys, hostPath: {path: /host}}]
"""
WEB = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": "shop", "uid": "u", "annotations": {"note": "y"}},
    "spec": {"replicas": 1},
}


def listed(items, *, custom=False):
    """A list of an API server, with as many."""
    shown = ",".join("{}" for _ in range(items))
    if custom:
        return (
            f'{{"apiVersion":"e/v1","items":[{shown}],"kind":"L","metadata":{{"continue":"","resourceVersion":"1"}}}}\n'
        )
    return f'{{"kind":"L","apiVersion":"v1","metadata":{{"resourceVersion":"1"}},"items":[{shown}]}}\n'


class Stand:
    """A directory with the programs, the snapshot, and what they left there."""

    def __init__(self, place):
        self.place = place
        self.programs = place / "programs"
        self.programs.mkdir()
        self.snapshot = place / "s.db"
        self.snapshot.write_bytes(boltfiles.snapshot(KEYS.pairs))
        scripts = {
            "etcd": ETCD, "etcdutl": ETCDUTL, "etcdctl": ETCDCTL, "kube-apiserver": SERVER, "kubectl": KUBECTL,
        }  # fmt: skip
        for name, text in scripts.items():
            path = self.programs / name
            path.write_text(f"#!/bin/sh\n{text.replace('PLACE', str(place))}")
            path.chmod(stat.S_IRWXU)
        self.say("kinds", KINDS)
        self.say("object", json.dumps(WEB))
        self.say("_apis_apps_v1_deployments", listed(1))
        self.say("_api_v1_secrets", listed(1))
        self.say("_apis_apiextensions.k8s.io_v1_customresourcedefinitions", listed(1))
        self.say("_apis_example.com_v1_widgets", listed(1, custom=True))

    def say(self, name, text):
        (self.place / name).write_text(text)

    def read(self, name):
        path = self.place / name
        return path.read_text() if path.exists() else ""

    def words(self, command, *words):
        return ["etcd", command, str(self.snapshot), *words, "--here", "--programs", str(self.programs)]

    @property
    def left(self):
        """Directories of moments, and processes of them that live."""
        staging = self.place / "state" / "orchestrator" / "snapshots" / "staging"
        pids = [int(pid) for pid in self.read("pids").split()]
        return [*(staging.iterdir() if staging.is_dir() else ()), *(pid for pid in pids if alive(pid))]


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def stand(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Stand(tmp_path)


@pytest.fixture
def run(stand, capsys):
    def called(command, *words):
        with pytest.raises(SystemExit) as end:
            main(stand.words(command, *words))
        said = capsys.readouterr()
        return SimpleNamespace(code=end.value.code, out=said.out, err=said.err)

    return called


# ---- extract --------------------------------------------------------------------------------------------------


def test_an_object_comes_out_clean_and_everything_is_gone(run, stand):
    found = run("extract", "deploy", "shop/web")

    assert (found.code, stand.left) == (0, [])
    assert found.out == (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\n  namespace: shop\n  annotations:\n"
        "    note: 'y'\nspec:\n  replicas: 1\n"
    )


def test_it_is_whole_when_that_is_wanted_and_json_when_that_is(run):
    assert json.loads(run("extract", "deploy", "shop/web", "--whole", "-o", "json").out) == WEB


def test_notes_are_on_stderr_and_silence_is_silent(run, stand):
    owned = {**WEB, "metadata": {**WEB["metadata"], "ownerReferences": [{"kind": "App", "name": "a"}]}}
    stand.say("object", json.dumps(owned))

    told, silent = run("extract", "deploy", "shop/web"), run("extract", "deploy", "shop/web", "-q")

    assert "note: it belonged to App a" in told.err
    assert "belonged" not in told.out
    assert silent.err == ""


def test_the_server_has_its_own_etcd_no_webhooks_and_no_way_out(run, stand):
    run("extract", "deploy", "shop/web")

    flags = dict(line.removeprefix("--").partition("=")[::2] for line in stand.read("flags").splitlines())
    assert flags["etcd-servers"].startswith("unix://")
    assert flags["bind-address"] == flags["advertise-address"] == "127.0.0.1"
    assert flags["endpoint-reconciler-type"] == "none"
    assert flags["disable-admission-plugins"] == "MutatingAdmissionWebhook,ValidatingAdmissionWebhook"
    assert flags["egress-selector-config-file"] == "egress.yaml"
    assert "encryption-provider-config" not in flags


def test_no_secret_is_in_a_command_line(run, stand):
    run("extract", "deploy", "shop/web")

    token = stand.read("token").partition(",")[0]
    assert len(token) == 64
    assert token not in stand.read("flags") + stand.read("calls")
    assert "EC PRIVATE KEY" in stand.read("accounts.key")


def test_two_moments_have_two_tokens_and_two_keys(run, stand):
    seen = set()
    for _ in range(2):
        run("extract", "deploy", "shop/web")
        seen |= {stand.read("token"), stand.read("accounts.key")}

    assert len(seen) == 4


def test_keys_of_encryption_are_handed_over(run, stand):
    stand.say("keys.yaml", "kind: EncryptionConfiguration\n")

    run("extract", "secret", "shop/db", "--encryption-config", str(stand.place / "keys.yaml"))

    assert "--encryption-provider-config=encryption.yaml" in stand.read("flags")
    assert stand.read("encryption.yaml") == "kind: EncryptionConfiguration\n"


class Silent:
    """This machine as a control plane whose API server does not run; its manifest is all that is told of it."""

    def __init__(self, clock, manifest):
        self._host, self._manifest = this_machine(clock), manifest

    def __getattr__(self, name):
        return getattr(self._host, name)

    def run(self, argv, **how):
        if MANIFEST in argv:
            return Completed(tuple(argv), 0, self._manifest.encode(), b"", 0.0)
        return self._host.run(argv, **how)


@pytest.fixture
def silent(stand, monkeypatch, capsys):
    """Takes a Secret out, or drills, where an API server has such a manifest, and does not run."""
    tools = stand.place / "tools"
    tools.mkdir()
    for name, text in (("pidof", "exit 1"), ("ctr", IMAGES.replace("PLACE", str(stand.place)))):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")

    def called(manifest, command="extract", *words):
        monkeypatch.setattr(App, "here", lambda app: Silent(app.clock, manifest))
        with pytest.raises(SystemExit) as end:
            main(["etcd", command, str(stand.snapshot), *(words or ("secret", "shop/db")), "--here"])
        return SimpleNamespace(code=end.value.code, err=capsys.readouterr().err)

    return called


def test_keys_of_an_api_server_that_does_not_run_are_where_the_host_has_them(silent, stand):
    (stand.place / "enc").mkdir()
    stand.say("enc/keys.yaml", "kind: EncryptionConfiguration\n")

    found = silent(MOUNTED.replace("/host", str(stand.place / "enc")))

    assert found.code == 0
    assert stand.read("encryption.yaml") == "kind: EncryptionConfiguration\n"


def test_an_api_server_that_ends_at_that_very_moment_is_one_that_does_not_run(silent, stand):
    (stand.place / "tools" / "pidof").write_text('#!/bin/sh\n[ "$2" != kube-apiserver ] || echo 999999999\n')
    (stand.place / "enc").mkdir()
    stand.say("enc/keys.yaml", "kind: EncryptionConfiguration\n")
    manifest = MOUNTED.replace("    - --enc", "    - --feature-gates=A=true\n    - --enc")

    assert silent(manifest.replace("/host", str(stand.place / "enc"))).code == 0
    assert stand.read("encryption.yaml") == "kind: EncryptionConfiguration\n"
    assert "--feature-gates=A=true" in stand.read("flags")


def test_sockets_of_plugins_are_where_the_host_has_them(silent, stand):
    (stand.place / "enc").mkdir()
    stand.say("enc/keys.yaml", '[{"endpoint": "unix:///in/a.sock"}, {"endpoint": "unix:///in/b"}, "unix:///ink/c"]')

    silent(MOUNTED.replace("/host", str(stand.place / "enc")))

    there = f"unix://{stand.place}/enc"
    expected = f'[{{"endpoint": "{there}/a.sock"}}, {{"endpoint": "{there}/b"}}, "unix:///ink/c"]'
    assert stand.read("encryption.yaml") == expected


def test_keys_that_are_not_where_its_manifest_says_are_told_before_anything_is_read(silent, stand):
    found = silent(MOUNTED.replace("/host", str(stand.place / "enc")))

    assert found.code == 40
    assert str(stand.place / "enc" / "keys.yaml") in found.err
    assert "--encryption-config FILE" in found.err
    assert (stand.read("flags"), stand.left) == ("", [])


def test_without_a_manifest_it_goes_without_keys(silent, stand):
    assert silent("").code == 0
    assert "encryption-provider-config" not in stand.read("flags")


def test_keys_that_are_away_are_no_matter_of_the_snapshot(silent, stand):
    found = silent(MOUNTED, "drill", "--api-server")

    assert found.code == 40
    assert "--encryption-config FILE" in found.err
    assert "take another" not in found.err


def test_programs_are_found_on_the_path_too(stand, monkeypatch, capsys):
    for name in ("pidof", "ctr"):
        (stand.programs / name).write_text("#!/bin/sh\nexit 1\n")
        (stand.programs / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{stand.programs}:{os.environ['PATH']}")
    with pytest.raises(SystemExit) as end:
        main(["etcd", "drill", str(stand.snapshot), "--here"])

    assert (end.value.code, stand.read("calls")) == (0, "restored\n")
    assert "it restores" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (("manifests", "orchestrator-r"), "manifests"), (("orchestrator-r",), "orchestrator-r"),
        (("orchestrator-a", "orchestrator-b"), "orchestrator-a"), ((), ""),
    ],
)  # fmt: skip
def test_the_manifest_is_in_its_place_or_where_a_run_has_put_it_aside(tmp_path, there, told):
    for name in there:
        (tmp_path / name).mkdir()
        (tmp_path / name / "kube-apiserver.yaml").write_text(name)

    script = MANIFEST.replace("/etc/kubernetes", str(tmp_path))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == told


def test_keys_that_cannot_be_read_are_refused_before_anything_starts(run, stand):
    found = run("extract", "secret", "shop/db", "--encryption-config", str(stand.place / "none.yaml"))

    assert (found.code, stand.read("calls")) == (2, "")
    assert "none.yaml cannot be read" in found.err


def test_nothing_is_started_for_what_cannot_be_there(run, stand):
    found = run("extract", "deploy", "shop/wbe")

    assert (found.code, stand.read("calls")) == (2, "")
    assert "there is Deployment shop/web" in found.err


def test_what_the_server_does_not_find_is_told_with_what_there_is(run, stand):
    (stand.place / "object").unlink()
    stand.say("said", 'Error from server (NotFound): configmaps "web" not found\n')

    found = run("extract", "cm", "shop/web")

    assert (found.code, found.out, stand.left) == (2, "", [])
    assert "has no configmaps shop/web; there is Deployment shop/web" in found.err


def test_what_needs_a_webhook_is_asked_for_as_it_was_stored(run, stand):
    (stand.place / "object").unlink()
    stand.say("said", "Error from server: conversion webhook for example.com/v1beta1, Kind=Widget failed: no\n")

    found = run("extract", "widgets", "shop/w1")

    assert found.code == 40
    assert "-- Widget.v1beta1.example.com w1" in stand.read("calls")


@pytest.mark.parametrize("name", ["etcd", "etcdutl", "kube-apiserver", "kubectl"])
def test_a_program_that_is_not_there_is_named(run, stand, monkeypatch, name):
    others = stand.place / "others"
    others.mkdir()
    for path in (path for at in ("/usr/sbin", "/usr/bin") for path in Path(at).iterdir() if path.name != name):
        if not (others / path.name).is_symlink():
            (others / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(others))
    (stand.programs / name).unlink()

    found = run("extract", "deploy", "shop/web")

    assert (found.code, stand.left) == (2, [])
    assert f"there is no {name} on this machine" in found.err


@pytest.mark.parametrize(
    ("trouble", "said"),
    [("restore-fails", "restore failed: no space left"), ("server-fails", "kube-apiserver failed: E0101 unknown flag")],
)
def test_what_fails_is_told_in_its_own_words_and_cleared_away(run, stand, trouble, said):
    stand.say(trouble, "")

    found = run("extract", "deploy", "shop/web")

    assert (found.code, stand.left) == (40, [])
    assert said in found.err


def test_a_file_of_nobody_knows_where_needs_a_place(stand, capsys):
    with pytest.raises(SystemExit) as end:
        main(["etcd", "extract", str(stand.snapshot), "deploy", "shop/web"])

    assert end.value.code == 2
    assert "--node" in capsys.readouterr().err


# ---- drill ----------------------------------------------------------------------------------------------------


def test_a_drill_with_an_api_server_counts_every_kind(run, stand):
    found = run("drill", "--api-server", "-o", "json")

    told = json.loads(found.out)
    assert (found.code, told["ok"], told["wrong"], stand.left) == (0, True, [], [])
    assert told["apiServer"]["objects"] == COUNT
    assert told["apiServer"]["counts"]["widgets.example.com"] == 1


def test_an_object_that_is_missing_is_a_drill_that_failed(run, stand):
    for path, custom in (("_api_v1_secrets", False), ("_apis_example.com_v1_widgets", True)):
        stand.say(path, listed(0, custom=custom))

    found = run("drill", "--api-server")

    assert found.code == 40
    assert "secrets: 0 objects, 1 in the snapshot" in found.out
    assert "widgets.example.com: 0 objects, 1 in the snapshot" in found.out


def test_all_pages_are_read(run, stand):
    text = listed(1).replace('"resourceVersion":"1"', '"continue":"ab","remainingItemCount":700')
    kubectl = stand.programs / "kubectl"
    kubectl.write_text(
        kubectl.read_text().replace("case", 'case "$*" in *secrets*continue=ab*) exec cat PLACE/last ;; esac\ncase', 1)
        .replace("PLACE", str(stand.place))
    )  # fmt: skip
    stand.say("_api_v1_secrets", text)
    stand.say("last", listed(1))

    found = json.loads(run("drill", "--api-server", "-o", "json").out)

    assert found["apiServer"]["counts"]["secrets"] == 701
    assert "secrets?limit=500&continue=ab" in stand.read("calls")


def test_a_drill_without_an_api_server_starts_none(run, stand):
    found = run("drill")

    assert (found.code, stand.read("flags"), stand.left) == (0, "", [])
    assert "it restores" in found.out


def test_a_server_that_does_not_start_is_a_drill_that_failed(run, stand):
    stand.say("server-fails", "")

    found = run("drill", "--api-server")

    assert (found.code, stand.left) == (40, [])
    assert "kube-apiserver failed" in found.out


# ---- killed ---------------------------------------------------------------------------------------------------


def until(ready, timeout_s=30.0):
    end = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def waiting(stand, *words):
    """A command that waits for its API server; it and the shell that serves."""
    stand.say("never-ready", "")
    process = subprocess.Popen([PROGRAM, *stand.words(*words)], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    until(lambda: len(stand.read("pids").split()) == 2)
    server = int(stand.read("pids").split()[1])
    shell = int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])
    return process, shell


def test_a_command_that_is_killed_leaves_a_moment_that_ends_by_itself(stand):
    process, shell = waiting(stand, "extract", "deploy", "shop/web")
    process.kill()
    process.communicate()
    (stand.place / "never-ready").unlink()

    until(lambda: not alive(shell))

    assert stand.left == []


def test_what_serves_ends_with_its_shell_even_when_that_is_killed(stand):
    process, shell = waiting(stand, "extract", "deploy", "shop/web")
    os.kill(shell, signal.SIGKILL)
    process.communicate(timeout=60)

    assert process.returncode == 40
    until(lambda: stand.left == [])


def test_a_shell_that_is_asked_to_end_clears_away(stand):
    process, shell = waiting(stand, "extract", "deploy", "shop/web")
    os.kill(shell, signal.SIGTERM)
    process.communicate(timeout=60)

    until(lambda: not alive(shell))

    assert stand.left == []


def test_what_a_killed_one_left_is_swept_by_the_next_and_what_runs_is_not(run, stand):
    staging = stand.place / "state" / "orchestrator" / "snapshots" / "staging"
    old, held, new = (staging / f"served-{name}" for name in ("old", "held", "new"))
    for each in (old, held, new):
        each.mkdir(parents=True)
        (each / "snapshot.db").touch()
    for each in (old, held):
        os.utime(each, (1, 1))
    with subprocess.Popen(["flock", str(held), "cat"], stdin=subprocess.PIPE) as holder:
        until(lambda: subprocess.run(["flock", "-n", str(held), "true"], check=False).returncode)
        run("drill")
        holder.stdin.close()

    assert (old.exists(), held.exists(), new.exists()) == (False, True, True)
