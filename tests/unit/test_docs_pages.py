"""What holds for every page: links lead somewhere, commands and flags exist, examples are what is printed."""

import re
from pathlib import Path

import pytest
import typer

from orchestrator.backup import metrics, objectstore, retention
from orchestrator.cli.main import app
from orchestrator.cluster import checkup
from orchestrator.cluster.checkup import Credentials
from orchestrator.cluster.model import Budget, CordonRecord, Node, OwnerRef, Pod, Selector, Taint, Toleration, Workload
from orchestrator.cluster.overview import Status, overview
from orchestrator.cluster.unmanaged import UnmanagedPods, unmanaged
from orchestrator.report import tables

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md")))
}
COMMANDS = typer.main.get_command(app).commands
#: Pages that are written from measurements, and may come after the pages that name them.
LATER = {"performance.md"}
WIDTH = 120
DAY = 86400.0
NOW = 1800007200.0


@pytest.mark.parametrize("page", PAGES)
def test_links_to_other_pages_lead_to_a_file(page):
    links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", PAGES[page])

    missing = {link for link in links if not ((ROOT / page).parent / link).exists()}
    assert {Path(link).name for link in missing} <= LATER


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_not_too_wide(page):
    prose = [line for line in PAGES[page].splitlines() if not line.startswith("|")]

    assert [line for line in prose if len(line) > WIDTH] == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_examples_exist_with_their_flags(page):
    blocks = [line for line in PAGES[page].splitlines() if line.startswith("    ")]
    quoted = re.findall(r"`([^`\n]+)`", PAGES[page])
    for text in (*blocks, *quoted):
        for word, rest in re.findall(r"(?:^|[\s$`])orchestrator ([a-z]+)((?: [^\s#|`]+)*)", text):
            flags = {f.partition("=")[0] for f in rest.split() if f.startswith("-") and f != "-"}
            below = getattr(COMMANDS[word], "commands", {})
            command = below[rest.split()[0]] if below and rest.split() else COMMANDS[word]
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}

            assert flags <= known, text


def pod(key, node, **what):
    namespace, _, name = key.partition("/")
    return Pod(namespace, name, uid=key, node=node, phase="Running", **{"ready": True, **what})


def facts():
    """The cluster of the examples in docs/status.md."""
    common = {"uid": "", "resource_version": "", "ready": True, "ready_since": NOW - 12 * DAY}
    common |= {"kubelet_version": "v1.36.3"}
    tainted = (Taint("node-role.kubernetes.io/control-plane", "", "NoSchedule"),)
    record = CordonRecord("jo@ops", "disk is failing", "", NOW - 6420)
    nodes = (
        Node("cp-1", unschedulable=False, roles=("control-plane",), taints=tainted, **common),
        Node("node-1", unschedulable=False, **common),
        Node("node-2", unschedulable=True, cordon=record, **common),
    )
    proxies = OwnerRef("DaemonSet", "kube-proxy", "apps/v1", "ds")
    web = OwnerRef("ReplicaSet", "web-7d4b9", "apps/v1", "rs")
    labels, everywhere = {"app": "web"}, (Toleration("", "Exists", "", ""),)
    broken = {"ready": False, "ready_since": NOW - 41, "waiting_reason": "ImagePullBackOff"}
    pods = (
        pod("kube-system/etcd-cp-1", "cp-1", labels={"component": "etcd"}, mirror=True),
        *(pod(f"kube-system/{n.name}", n.name, controller=proxies, tolerations=everywhere) for n in nodes),
        pod("shop/web-7d4b9-a1", "node-1", controller=web, labels=labels),
        pod("shop/web-7d4b9-b2", "node-1", controller=web, labels=labels, **broken),
        pod("shop/debug", "node-1", empty_dir=True),
    )
    deployment = OwnerRef("Deployment", "web", "apps/v1", "deployment")
    workloads = (
        Workload("Deployment", "shop", "web", "deployment", None, 2, 1),
        Workload("ReplicaSet", "shop", "web-7d4b9", "rs", deployment, 2, 1),
        Workload("DaemonSet", "kube-system", "kube-proxy", "ds", None, 3, 3),
    )
    budget = Budget("shop", "web", Selector({"app": "web"}), 0, 1, 1, 2, rule="minAvailable: 1")
    return nodes, pods, (budget,), workloads


def example(command):
    """What docs/status.md shows below a command."""
    [block] = re.findall(rf"^    \$ {command}\n((?:    .*\n|\n(?=    ))*)", PAGES["docs/status.md"], re.MULTILINE)
    return [line.removeprefix("    ") for line in block.splitlines()]


def test_the_example_of_status_is_how_its_output_begins():
    nodes, pods, budgets, workloads = facts()
    seen = overview(nodes, pods, budgets, workloads, server_version="v1.36.3", etcd_answers=True)
    end = NOW + 200 * DAY
    status = Status("https://10.0.0.10:6443", "prod", NOW, seen, end, Credentials("client certificate", end))

    shown = tables.status(status, everything=False).splitlines()

    documented = example("orchestrator status")
    assert shown[: len(documented)] == documented
    assert shown[len(documented)] == ""


def test_the_sections_that_the_page_names_are_those_of_the_output():
    nodes, pods, budgets, workloads = facts()
    seen = overview(nodes, pods, budgets, workloads, server_version="v1.36.3", etcd_answers=True)
    status = Status("", "", NOW, seen, None, Credentials("none", None))

    shown = tables.status(status, everything=False).splitlines()

    answers = "; ".join(re.findall(r"^\| .*\? \| (.*) \|$", PAGES["docs/status.md"], re.MULTILINE))
    titles = set(re.findall(r"\b[A-Z]{3,}(?: [A-Z]{2,})*\b", answers)) - {"API"}
    assert titles == {line for line in shown if re.fullmatch(r"[A-Z]+(?: [A-Z]+)*", line)}
    labels = set(re.findall(r"`([a-z ]+)`", answers))
    assert labels <= {line[:14].strip() for line in shown[:12]}


def test_the_example_of_unmanaged_is_its_output():
    _, pods, budgets, workloads = facts()
    here = tuple(p for p in pods if p.node == "node-1")

    shown = tables.unmanaged(UnmanagedPods(("node-1",), len(here), unmanaged(here, workloads, budgets, now=NOW)))

    assert shown.splitlines() == example("orchestrator unmanaged node-1")


def test_the_versions_that_are_supported_and_tested_are_the_code_s():
    supported, tested = checkup.SUPPORTED, checkup.TESTED

    said = f"supported: Kubernetes 1.{supported[0]} to 1.{supported[-1]}; tested: 1.{tested[0]} and 1.{tested[1]}"
    assert said in PAGES["docs/status.md"]


# ---- docs/etcd.md ---------------------------------------------------------------------------------------------

ETCD = PAGES["docs/etcd.md"]


def options(*names):
    """The parameters of some `etcd` commands, by flag."""
    found = COMMANDS["etcd"].commands
    return {flag: p for name in names or found for p in found[name].params for flag in p.opts if p.envvar}


def test_the_page_names_every_command_that_deals_with_backups():
    named = set(re.findall(r"orchestrator etcd ([a-z-]+)", ETCD))

    assert {"status", "backup", "list", "verify", "drill", "pin", "prune"} <= named <= set(COMMANDS["etcd"].commands)


def test_the_variables_of_the_page_are_those_of_the_flags():
    named = set(re.findall(r"\bORCHESTRATOR_[A-Z_]+", ETCD + PAGES["docs/settings.md"]))

    assert {str(parameter.envvar) for parameter in options().values()} == named


def test_the_policies_of_the_page_can_be_meant_and_its_words_are_all_there_are():
    policies = re.findall(r"--keep ([a-z]+=\S+)|_KEEP=(\S+)", ETCD)
    [table] = re.findall(r"\| word \|.*?\n\n", ETCD, re.DOTALL)

    assert all(retention.parse(one or other) for one, other in policies)
    assert set(re.findall(r"`([a-z-]+)=", table)) == set(retention._WORDS)


def test_the_metrics_of_the_page_are_those_that_are_written():
    [table] = re.findall(r"\| metric \|.*?\n\n", ETCD, re.DOTALL)

    named = {word for row in table.splitlines()[2:] for word in re.findall(r"`([a-z_]+)`", row.split(" | ")[0])}
    assert named == {name for name, _, _ in (*metrics._OF_CLUSTER, *metrics._OF_DESTINATION)}
    assert f"`{metrics.PREFIX}`" in ETCD


def test_the_settings_of_object_stores_are_those_that_are_read():
    [told] = re.findall(r"Settings do:\n(.*?)\. ", ETCD, re.DOTALL)

    named = set(re.findall(r"`([a-z_]+)`", told))
    assert named == {word for words in objectstore._SETTINGS.values() for word in words}
    assert all(name in ETCD for text in objectstore._CREDENTIALS.values() for name in re.findall(r"[A-Z_]{6,}", text))
