"""What `doctor` finds, from this machine to the run lock."""

import json
import re
import socket
import time
from datetime import UTC, datetime

import pytest

from orchestrator import doctor
from orchestrator.app import App, Settings
from orchestrator.cluster.checkup import Level
from orchestrator.engine import runs
from orchestrator.engine.events import Silent
from orchestrator.engine.journal import Journal
from orchestrator.engine.plan import Plan
from orchestrator.errors import BadUsage
from orchestrator.kube.permissions import COMMANDS
from tests.fakes.api import REVIEWS, Api
from tests.fakes.certificates import Certificates
from tests.fakes.server import page, said

DAY_S = 86400.0
LEASE = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/*"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api():
    with Api() as running:
        yield running


def examined(path, commands=("doctor",), **settings):
    """Each finding by its check, in the order in which they were found."""
    app = App(Settings(str(path), **{"patience_s": 0.2, **settings}), Silent())
    found = {f.check: f for f in doctor.examine(app, commands)}
    if "session" in vars(app):
        app.session._pool.clear()
    return found


def a_run(state="failed"):
    """A run that stands so; gives its id."""
    run = runs.new_id("drain", time.time())
    with Journal.create(runs.directory(run), run, Plan("drain", "drain n1", ()), meta={}) as journal:
        if state == "failed":
            journal.failed(BadUsage("x", remedy="y"))
        else:
            journal.mark("ended", outcome="finished")
    return run


def lease(run="drain-9", age_s=5.0):
    """A lock that was renewed so long ago."""
    at = datetime.fromtimestamp(time.time() - age_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "sam@desk", "acquireTime": at, "renewTime": at, "leaseDurationSeconds": 15}
    return {"metadata": {"annotations": {"kube-orchestrator.io/run": run} if run else {}}, "spec": spec}


def test_findings_come_in_the_order_in_which_commands_need_them(api, tmp_path):
    found = examined(api.kubeconfig(tmp_path), ("status", "doctor"))

    assert list(found) == [
        "python",
        "state directory",
        "kubeconfig",
        "context",
        "connection",
        "clock",
        "server version",
        "credentials",
        "server certificate",
        "permissions: status",
        "permissions: doctor",
        "run lock",
    ]
    assert Level.FAILED not in {f.level for f in found.values()}
    assert found["context"].evidence == "stub: cluster stub-cluster, user stub-user"
    assert api.asked("PATCH") == api.asked("PUT") == api.asked("DELETE") == []
    assert {r.path for r in api.asked("POST")} == {REVIEWS}


def test_each_permission_is_asked_for_once_however_many_commands_need_it(api, tmp_path):
    examined(api.kubeconfig(tmp_path), tuple(COMMANDS))
    asked = [json.dumps(r.body["spec"], sort_keys=True) for r in api.asked("POST", REVIEWS)]

    assert len(asked) == len(set(asked))


def test_without_a_kubeconfig_nothing_of_the_cluster_is_looked_at(tmp_path):
    found = examined(tmp_path / "none")

    assert list(found) == ["python", "state directory", "kubeconfig"]
    assert found["kubeconfig"].level is Level.FAILED
    assert found["kubeconfig"].remedy


def test_a_server_that_is_down_is_one_finding_and_the_credentials_are_still_looked_at(api, tmp_path):
    path = api.kubeconfig(tmp_path)
    api.down()

    found = examined(path, patience_s=2.0)  # enough for a second attempt on a busy machine

    assert found["connection"].level is Level.FAILED
    assert "does not answer (GET /version)" in found["connection"].evidence
    assert "tried" in found["connection"].evidence
    assert "credentials" in found
    assert not any(c.startswith(("permissions", "run lock")) for c in found)


def test_credentials_that_cannot_be_loaded_are_one_finding(api, tmp_path):
    found = examined(api.kubeconfig(tmp_path, user={"tokenFile": "/no/such/token"}))

    assert found["connection"].level is Level.FAILED
    assert "/no/such/token" in found["connection"].evidence
    assert "credentials" not in found


def test_a_server_certificate_that_has_ended_is_found_although_the_server_is_not_trusted_then(tmp_path):
    with Api(tls=Certificates(tmp_path, valid_s=-2 * DAY_S)) as api:
        found = examined(api.kubeconfig(tmp_path))

    assert found["connection"].level is found["server certificate"].level is Level.FAILED
    assert "ended 2 days ago" in found["server certificate"].evidence.replace("48 hours", "2 days")
    assert "kubeadm certs renew apiserver" in found["server certificate"].remedy


def test_a_client_certificate_that_ends_soon_is_a_warning(tmp_path):
    certificates = Certificates(tmp_path)
    certificate, key = certificates.issue("jo", valid_s=10 * DAY_S)
    with Api(tls=certificates) as api:
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        found = examined(api.kubeconfig(tmp_path, user=user))

    assert found["credentials"].level is Level.WARNING
    assert found["credentials"].evidence == "client certificate ends in 10 days"


def test_a_kubeconfig_that_others_can_read_is_a_warning_with_the_command(api, tmp_path):
    path = api.kubeconfig(tmp_path)
    path.chmod(0o644)

    found = examined(path)["kubeconfig"]

    assert (found.level, found.remedy) == (Level.WARNING, f"chmod 0600 {path}")


def test_runs_that_wait_for_somebody_are_named_with_what_to_do(api, tmp_path):
    ended, failed = a_run("finished"), a_run()

    found = examined(api.kubeconfig(tmp_path))["unfinished runs"]

    assert found.level is Level.WARNING
    assert found.evidence == f"{failed} (failed)"
    assert found.remedy == f"orchestrator resume {failed}, or release it"
    assert ended not in found.evidence


def test_of_many_unfinished_runs_a_few_are_named_and_the_rest_counted(api, tmp_path):
    for _ in range(doctor.NAMES + 2):
        a_run()

    assert examined(api.kubeconfig(tmp_path))["unfinished runs"].evidence.endswith(" and 2 more")


def test_a_damaged_run_is_to_be_looked_at_and_not_resumed(api, tmp_path):
    run = a_run()
    (runs.directory(run) / "journal.jsonl").write_text("{}\n")

    found = examined(api.kubeconfig(tmp_path))["unfinished runs"]

    assert found.evidence == f"{run} (damaged)"
    assert found.remedy.startswith(f"look at {runs.directory(run)}")


def test_runs_that_are_over_are_nothing_to_do(api, tmp_path):
    a_run("finished")

    found = examined(api.kubeconfig(tmp_path))

    assert (found["unfinished runs"].level, found["unfinished runs"].evidence) == (Level.OK, "none")
    assert found["state directory"].level is Level.OK


def test_a_state_directory_that_cannot_be_made_is_found(api, tmp_path):
    (tmp_path / "state").write_text("a file")

    found = examined(api.kubeconfig(tmp_path))["state directory"]

    assert found.level is Level.FAILED
    assert found.evidence == f"{tmp_path / 'state'} is not a directory"
    assert "XDG_STATE_HOME" in found.remedy


@pytest.mark.parametrize(
    ("run", "age_s", "evidence", "remedy"),
    [
        ("drain-9", 5.0, r"held by sam@desk for run drain-9, since \d+ s", "wait, or ask them"),
        ("drain-9", 90.0, r"not renewed for \d\d s: the next run takes it over", "orchestrator resume drain-9"),
        ("", 5.0, "held by sam@desk for run unknown", "wait, or ask them"),
    ],
    ids=["held", "abandoned", "no run"],
)
def test_a_held_lock_is_told_with_its_holder(api, tmp_path, run, age_s, evidence, remedy):
    api.lease = lease(run, age_s)

    found = examined(api.kubeconfig(tmp_path))["run lock"]

    assert found.level is Level.WARNING
    assert re.search(evidence, found.evidence)
    assert remedy in found.remedy


def test_an_abandoned_lock_of_an_unknown_run_names_no_command_that_cannot_work(api, tmp_path):
    api.lease = lease(run="", age_s=90.0)

    found = examined(api.kubeconfig(tmp_path))["run lock"]

    assert "the next run takes it over" in found.evidence
    assert found.remedy == ""


def test_what_cannot_be_read_is_a_finding_and_ends_nothing(api, tmp_path):
    api.on("GET", LEASE, said(403, "leases is forbidden"))
    api.on("POST", REVIEWS, page(404, "no reviews here"))

    found = examined(api.kubeconfig(tmp_path))

    assert found["permissions"].level is found["run lock"].level is Level.FAILED
    assert "leases is forbidden" in found["run lock"].evidence


def test_permissions_are_those_of_the_commands_that_are_named():
    assert doctor.chosen(["drain", "drain"]) == ("drain",)
    assert doctor.chosen(None) == tuple(COMMANDS)
    with pytest.raises(BadUsage, match="--for=dance") as caught:
        doctor.chosen(["dance"])
    assert "uncordon" in caught.value.remedy


def test_the_owner_of_cordons_is_who_runs_it_where(monkeypatch):
    monkeypatch.setenv("LOGNAME", "jo")

    assert App(Settings(), Silent()).owner == f"jo@{socket.gethostname()}"
    assert App(Settings(owner="ops"), Silent()).owner == "ops"
