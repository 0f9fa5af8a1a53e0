"""Objects out of snapshots of a real API server, and drills of them, by programs of both versions, on this machine."""

import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from lab import gobuild, kms, versions
from lab.api import tier
from lab.api.client import Client
from lab.processes import run
from tests.api.command import Command

pytestmark = pytest.mark.api

SCHEMA = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
SECRETS = "/api/v1/namespaces/default/secrets"
#: Nobody listens there: a webhook that would be called is seen, for nothing else would be said of it.
NOBODY = {"url": "https://127.0.0.1:1/"}


class Encrypting(tier.ControlPlane):
    """A control plane that encrypts Secrets at rest."""

    def _api_server(self):
        return [*super()._api_server(), f"--encryption-provider-config={self.directory / 'encryption.yaml'}"]


SECRETBOX = {"secretbox": {"keys": [{"name": "k1", "secret": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}}


@contextmanager
def served(directory, *providers):
    """An API server and its etcd, nothing else; Secrets are encrypted at rest where there are providers of that."""
    made = tier.create(directory, version="1.36.3", tied=True)
    kind = Encrypting if providers else tier.ControlPlane
    plane = kind(made.directory, made.ports, made.version, made.tied)
    (directory / "encryption.yaml").write_text(yaml.safe_dump(kms.configuration(*providers)))
    try:
        plane.start("etcd", "kube-apiserver")
        with Client(plane) as client:
            yield plane, client
    finally:
        plane.stop()


def saved(plane, path):
    etcdctl = gobuild.etcd(versions.KUBERNETES[plane.version].etcd) / "etcdctl"
    run([str(etcdctl), f"--endpoints=http://{tier.ADDRESS}:{plane.ports.etcd}", "snapshot", "save", str(path)])
    return path


def here(version):
    """The words that name the programs of a version."""
    etcd = gobuild.etcd(versions.KUBERNETES[version].etcd)
    return ("--here", f"--programs={etcd}", f"--programs={gobuild.kubernetes(version)}")


def definition(plural, kind, conversion):
    spec = {
        "group": "stable.example.com",
        "scope": "Namespaced",
        "names": {"plural": plural, "kind": kind, "shortNames": [plural[:2]]},
        "conversion": conversion,
        "versions": [
            {"name": name, "served": True, "storage": name == "v1beta1", "schema": SCHEMA} for name in ("v1", "v1beta1")
        ],
    }
    metadata = {"name": f"{plural}.stable.example.com"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


def webhook():
    rule = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}
    hook = {
        "name": "all.example.com", "clientConfig": NOBODY, "rules": [rule], "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
    }  # fmt: skip
    return {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "all"}, "webhooks": [hook],
    }  # fmt: skip


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """Of a cluster with custom resources, one kind of them converted by a webhook, and a webhook that forbids all."""
    directory = tmp_path_factory.mktemp("served")
    with served(directory / "plane") as (plane, client):
        webhooks = {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": NOBODY}}
        root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        client.ask("POST", root, definition("widgets", "Widget", {"strategy": "None"}))
        client.ask("POST", root, definition("gadgets", "Gadget", webhooks))
        for plural, kind in (("widgets", "Widget"), ("gadgets", "Gadget")):
            path = f"/apis/stable.example.com/v1beta1/namespaces/default/{plural}"
            version = "stable.example.com/v1beta1"
            body = {"apiVersion": version, "kind": kind, "metadata": {"name": "one"}, "spec": {"size": 3, "on": "on"}}
            client.wait(kind, lambda path=path, body=body: client.attempt("POST", path, body)[0] in (201, 409))
        for number in range(620):
            name = {"name": f"c{number}"}
            client.ask("POST", "/api/v1/namespaces/default/configmaps", {"metadata": name, "data": {"a": "x\ny\n"}})
        client.ask("POST", SECRETS, {"metadata": {"name": "db"}, "stringData": {"password": "hunter2"}})
        client.ask("POST", "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", webhook())
        yield saved(plane, directory / "s.db")


@pytest.fixture
def command(tmp_path):
    """The command, without any cluster."""
    made = Command(tmp_path / "nowhere", tmp_path)
    yield made
    made.end()


def left(command):
    return list((command.home / "state" / "orchestrator" / "snapshots" / "staging").iterdir())


@pytest.mark.parametrize("version", ["1.36.3", "1.37.2"])
def test_a_drill_reads_every_object_though_webhooks_are_away(command, snapshot, version):
    found = command.json("etcd", "drill", str(snapshot), "--api-server", *here(version))

    census = command.json("etcd", "verify", str(snapshot), "--deep")
    kinds = {f"{k['resource']}.{k['group']}".rstrip("."): k["objects"] for k in census["kinds"]}
    server = found["apiServer"]
    assert (found["ok"], found["wrong"], server["unread"]) == (True, [], {})
    assert server["version"] == f"v{version}"
    assert kinds["configmaps"] > 620
    for name in ("configmaps", "secrets", "widgets.stable.example.com", "gadgets.stable.example.com"):
        assert server["counts"][name] == kinds[name]
    assert left(command) == []


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("widgets.stable.example.com", "v1"), ("wi", "v1"), ("Widget.v1beta1.stable.example.com", "v1beta1"),
        ("gadget", "v1beta1"),
    ],
)  # fmt: skip
def test_custom_resources_come_by_any_of_their_names_converted_where_they_can_be(command, snapshot, kind, version):
    done = command("etcd", "extract", str(snapshot), kind, "default/one", *here("1.36.3"))

    found = yaml.safe_load(done.stdout)
    assert found["apiVersion"] == f"stable.example.com/{version}"
    assert found["metadata"] == {"name": "one", "namespace": "default"}
    assert found["spec"] == {"size": 3, "on": "on"}


def test_a_definition_is_an_object_too(command, snapshot):
    done = command("etcd", "extract", str(snapshot), "crd", "widgets.stable.example.com", *here("1.36.3"), "-o", "json")

    assert json.loads(done.stdout)["spec"]["names"]["kind"] == "Widget"


def test_what_is_encrypted_at_rest_takes_its_keys_and_says_so(command, tmp_path):
    with served(tmp_path / "plane", SECRETBOX) as (plane, client):
        client.ask("POST", SECRETS, {"metadata": {"name": "db"}, "stringData": {"password": "hunter2"}})
        snapshot = saved(plane, tmp_path / "s.db")
    keys = f"--encryption-config={tmp_path / 'plane' / 'encryption.yaml'}"
    words = ("etcd", "extract", str(snapshot), "secret", "default/db", *here("1.36.3"))

    without = command(*words, code=40)
    drilled = command("etcd", "drill", str(snapshot), "--api-server", *here("1.36.3"), "-o", "json", code=40)
    found = yaml.safe_load(command(*words, keys).stdout)
    well = command.json("etcd", "drill", str(snapshot), "--api-server", *here("1.36.3"), keys)

    assert "--encryption-config" in without.stderr
    assert any("secrets could not be read" in text for text in json.loads(drilled.stdout)["wrong"])
    assert "give its keys: --encryption-config FILE" in drilled.stderr
    assert found["data"] == {"password": "aHVudGVyMg=="}
    assert well["ok"]
    assert left(command) == []


@pytest.fixture
def plugin():
    """One whose socket has a name that is short enough."""
    with tempfile.TemporaryDirectory() as made, kms.running(Path(made) / "k") as plugin:
        yield plugin


def test_what_is_encrypted_by_a_kms_is_read_by_its_plugin_and_not_without(command, tmp_path, plugin):
    with served(tmp_path / "plane", plugin.provider, {"identity": {}}) as (plane, client):
        client.ask("POST", SECRETS, {"metadata": {"name": "db"}, "stringData": {"password": "hunter2"}})
        snapshot = saved(plane, tmp_path / "s.db")
    assert b"k8s:enc:kms:v2:lab:" in snapshot.read_bytes()
    keys = f"--encryption-config={tmp_path / 'plane' / 'encryption.yaml'}"
    words = ("etcd", "extract", str(snapshot), "secret", "default/db", *here("1.36.3"), keys)

    found = yaml.safe_load(command(*words).stdout)
    well = command.json("etcd", "drill", str(snapshot), "--api-server", *here("1.36.3"), keys)
    plugin.stop()
    without = command(*words, code=40)

    assert found["data"] == {"password": "aHVudGVyMg=="}
    assert (well["ok"], well["wrong"], well["apiServer"]["unread"]) == (True, [], {})
    assert "where a KMS has them, its plugin has to run there" in without.stderr
    assert left(command) == []
