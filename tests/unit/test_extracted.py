"""Which object is meant, what there is around it, and what an API server's answer says of it."""

import json

import pytest

from orchestrator.backup.contents import parse_key
from orchestrator.backup.extracted import Sought, around, is_of, parse, sought
from orchestrator.errors import BackupError, BadUsage, FactUnreadable

KEYS = tuple(
    parse_key(f"/registry/{path}".encode())
    for path in (
        "deployments/shop/web",
        "services/specs/shop/web",
        "deployments/shop/api",
        "deployments/stage/web",
        "secrets/shop/db",
        "example.com/widgets/shop/w1",
        "minions/node-1",
    )
)
KINDS = "@@served\n deployments deploy apps/v1 true Deployment\n widgets example.com/v1 true Widget\n"


def failed(said):
    return f"{KINDS}@@said\n {said}\n@@ended\n"


# ---- meant ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "path", "found"),
    [
        ("deployment", "shop/web", Sought("deployment", "shop", "web")),
        ("deployments.v1.apps", "shop/web", Sought("deployments.v1.apps", "shop", "web")),
        ("node", "node-1", Sought("node", "", "node-1")),
        ("clusterrole", "system:node", Sought("clusterrole", "", "system:node")),
    ],
)
def test_an_object_is_a_kind_and_where_it_is(kind, path, found):
    assert sought(kind, path) == found


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("deploy,svc", "shop/web"), ("", "shop/web"), ("-A", "shop/web"), ("deploy", ""), ("deploy", "shop/"),
        ("deploy", "/web"), ("deploy", "a/b/c"), ("deploy", "shop/we b"), ("deploy/web", "shop/web"),
    ],
)  # fmt: skip
def test_what_names_no_object_is_refused(kind, path):
    with pytest.raises(BadUsage, match="names no object"):
        sought(kind, path)


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ("Deployment", True), ("deployments", True), ("deployments.apps", True), ("deployment.v1.apps", True),
        ("deployments.example.com", False), ("deploy", False), ("service", False),
    ],
)  # fmt: skip
def test_a_key_is_of_a_kind_by_its_names_and_its_group(kind, fits):
    assert is_of(KEYS[0], kind) is fits


@pytest.mark.parametrize("kind", ["widgets", "widgets.example.com", "widgets.v1.example.com"])
def test_custom_resources_are_known_by_their_resource(kind):
    assert is_of(KEYS[5], kind)


# ---- around ---------------------------------------------------------------------------------------------------


def test_what_is_there_is_there_whatever_its_kind_is_called():
    assert around(KEYS, Sought("deploy", "shop", "web")).there
    assert around(KEYS, Sought("no", "", "node-1")).there


def test_a_name_that_is_nearly_one_is_offered_of_its_own_kind():
    found = around(KEYS, Sought("deployment", "shop", "wbe"))

    assert (found.there, found.same, found.near) == (False, (), ("Deployment shop/web",))
    assert found.text == "there is Deployment shop/web"


def test_the_same_name_elsewhere_is_offered_of_its_own_kind():
    found = around(KEYS, Sought("deployment", "prod", "web"))

    assert found.text == "there is Deployment shop/web, Deployment stage/web"


def test_of_a_kind_that_keys_do_not_tell_all_are_offered():
    found = around(KEYS, Sought("deploy", "", "web"))

    assert found.same == ("Deployment shop/web", "Service shop/web", "Deployment stage/web")


def test_a_kind_that_has_no_such_name_at_all_offers_other_kinds_of_that_name():
    assert around(KEYS, Sought("secret", "shop", "web")).same[0] == "Deployment shop/web"


def test_when_nothing_is_like_it_that_is_said():
    assert "nothing" in around(KEYS, Sought("deployment", "shop", "zzzzzz")).text


def test_no_more_than_some_are_named():
    keys = [parse_key(f"/registry/pods/ns{n}/web".encode()) for n in range(50)]

    assert len(around(keys, Sought("pod", "x", "web")).same) == 5


# ---- answers --------------------------------------------------------------------------------------------------

WEB = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"namespace": "shop", "name": "web"}}
WANTED = Sought("deploy", "shop", "web")


def answer(body):
    return "@@ready\n 1.0\n@@object\n" + "".join(f" {line}\n" for line in body.splitlines()) + "@@ended\n"


def test_the_object_comes_back_as_it_is():
    assert parse(answer(json.dumps(WEB, indent=4)), WANTED, "cp-1") == WEB


def test_a_text_that_looks_like_a_head_stays_in_the_object():
    odd = {**WEB, "data": {"a": "x\n@@failed start\n"}}

    assert parse(answer(json.dumps(odd)), WANTED, "cp-1") == odd


@pytest.mark.parametrize(
    "body", ["", "null", "[]", "{}", '{"metadata": null}', '{"metadata": {"name": "x"', '{"metadata": []}']
)
def test_what_is_no_object_is_unreadable(body):
    with pytest.raises(FactUnreadable):
        parse(answer(body), WANTED, "cp-1")


def test_a_kind_without_namespaces_is_named_without_one():
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}

    with pytest.raises(BadUsage, match="Node node-1 is in no namespace") as caught:
        parse(answer(json.dumps(node)), Sought("no", "shop", "node-1"), "cp-1")
    assert "no node-1" in caught.value.remedy


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(BadUsage, match="no kube-apiserver on cp-1"):
        parse("@@missing kube-apiserver\n", WANTED, "cp-1")


def test_a_server_that_did_not_start_is_a_failure_of_the_backup():
    with pytest.raises(BackupError, match="kube-apiserver failed: bad flag"):
        parse("@@failed server\n bad\n flag\n", WANTED, "cp-1")
    with pytest.raises(BackupError, match="did not come to its end"):
        parse("@@ready\n 1.0\n", WANTED, "cp-1")


def test_what_is_not_there_goes_by_the_name_of_the_server():
    said = 'Error from server (NotFound): deployments.apps "web" not found'

    assert parse(failed(said), WANTED, "cp-1") == Sought("deployments.apps", "shop", "web")


def test_a_namespace_that_is_not_there_is_not_taken_for_the_object():
    said = 'Error from server (NotFound): namespaces "-" not found'

    assert parse(failed(said), Sought("deploy", "", "web"), "cp-1") == Sought("deploy", "", "web")
    missing = parse(failed('Error from server (NotFound): namespaces "x" not found'), Sought("ns", "", "x"), "cp-1")
    assert missing == Sought("namespaces", "", "x")


@pytest.mark.parametrize(("kind", "offered"), [("depl", "deployments"), ("wigdets", "widgets"), ("zzz", "verify")])
def test_a_kind_that_is_not_known_is_an_argument_that_cannot_be_meant(kind, offered):
    said = f'error: the server doesn\'t have a resource type "{kind}"'

    with pytest.raises(BadUsage, match=f"no kind '{kind}'") as caught:
        parse(failed(said), Sought(kind, "shop", "web"), "cp-1")
    assert offered in caught.value.remedy


def test_what_cannot_be_decrypted_is_a_failure_that_names_the_way_out():
    said = "Error from server (InternalError): Internal error occurred: no matching prefix found"

    with pytest.raises(BackupError, match="no matching prefix") as caught:
        parse(failed(said), Sought("secret", "shop", "db"), "cp-1")
    assert "--encryption-config" in caught.value.remedy
