"""The pure parts of the benchmark: requests out of an audit log, tables of ratios out of runs."""

import json

import pytest

from lab.bench import audit, measure, report, restores, ssh
from lab.bench.drains import KUBECTL, NOBODY, OURS, SCENARIOS, Row
from lab.bench.measure import Run
from lab.bench.report import Figures
from lab.bench.startup import PLAIN_TYPER, TYPER
from lab.errors import LabError


def event(verb, *, resource="", subresource="", uri="", status=200, agent="kubectl/v1.37.2 (linux/amd64)", stage=""):
    where = {"resource": resource, "namespace": "default", "apiVersion": "v1"}
    if subresource:
        where["subresource"] = subresource
    return json.dumps(
        {
            "stage": stage or "ResponseComplete", "requestURI": uri or f"/api/v1/{resource}?limit=500", "verb": verb,
            "userAgent": agent, **({"objectRef": where} if resource else {}), "responseStatus": {"code": status},
        }
    )  # fmt: skip


def run(**changed):
    values = {
        "wall_s": 10.0, "cpu_s": 0.2, "peak_mib": 50.0, "requests": {"get pods": 60, "create pods/eviction": 40},
        "refused": 0, "other_ms": (1.0, 2.0, 3.0), "foreign_percent": 1.0, "code": 0,
    }  # fmt: skip
    return Run(**{**values, **changed})


def row(tool, *, scenario="free", pods=50, parallel=0, **changed):
    return Row(scenario, pods, tool, parallel, run(**changed))


def test_requests_are_counted_by_verb_and_resource_with_its_subresource():
    lines = [
        event("create", resource="pods", subresource="eviction", status=201),
        event("get", resource="pods", status=404),
        event("get", resource="pods"),
    ]

    asked = audit.parse(lines)

    assert measure.count(asked) == {"get pods": 2, "create pods/eviction": 1}
    assert [each.status for each in asked] == [201, 404, 200]


def test_a_request_counts_once_whatever_stages_of_it_were_logged():
    lines = [event("watch", resource="pods", stage="ResponseStarted"), event("watch", resource="pods")]

    assert len(audit.parse(lines)) == 1


def test_a_path_that_is_no_resource_is_counted_by_its_path_without_its_query():
    (asked,) = audit.parse([event("get", uri="/api/v1?timeout=32s")])

    assert (asked.verb, asked.resource) == ("get", "/api/v1")


def test_clients_are_told_apart_by_the_first_word_of_their_user_agent():
    lines = [event("get", resource="nodes", agent="orchestrator"), event("get", resource="nodes")]

    assert [each.agent for each in audit.parse(lines)] == ["orchestrator", "kubectl"]


def test_a_log_is_read_on_from_where_it_was_read_to(tmp_path):
    path = tmp_path / "audit.log"
    log = audit.Log(path, quiet_s=0)

    assert log.new() == ()
    path.write_text(event("get", resource="nodes") + "\n")
    assert [each.resource for each in log.new()] == ["nodes"]
    with path.open("a") as more:
        more.write(event("list", resource="pods") + "\n" + '{"stage": "half a li')
    assert [each.resource for each in log.new()] == ["pods"]


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 3.0), (99, 4.0), (100, 4.0)])
def test_a_percentile_is_one_of_the_values(percent, expected):
    assert measure.percentile((1.0, 2.0, 3.0, 4.0), percent) == expected


@pytest.mark.parametrize(
    ("scenario", "pods", "allowed"),
    [("free", 50, 0), ("tenth", 50, 5), ("tenth", 51, 6), ("tenth", 250, 25), ("single", 500, 1)],
)
def test_a_budget_in_percent_allows_the_part_rounded_up_as_its_controller_does(scenario, pods, allowed):
    assert SCENARIOS[scenario].allowed(pods) == allowed


def test_a_ratio_is_that_of_the_medians():
    rows = [row(KUBECTL, wall_s=s) for s in (10, 11, 30)] + [row(OURS, wall_s=s) for s in (1, 1.1, 9)]

    assert Figures(tuple(rows)).ratio("free", 50, lambda r: r.wall_s) == pytest.approx(0.1)


def test_the_table_of_drains_shows_both_figures_and_the_ratio():
    figures = Figures((row(KUBECTL), row(OURS, wall_s=1.0, cpu_s=0.4, peak_mib=55.0, requests={"list pods": 55})))

    table = report.drains(figures).splitlines()

    assert table[2] == (
        "| no budget | 50 | 1 | 10.00 / 1.00 | **0.10** | 100 / 55 | **0.55** | 0.20 / 0.40 | **2.00** |"
        " 50 / 55 | **1.10** | 1 / 1 |"
    )


def test_each_target_is_told_as_reached_or_missed_and_the_worst_row_counts():
    good, bad = {"wall_s": 1.0}, {"wall_s": 5.0, "requests": {"list pods": 60}}
    figures = Figures(
        (row(KUBECTL), row(OURS, **good), row(KUBECTL, scenario="tenth"), row(OURS, scenario="tenth", **bad))
    ).with_startup({TYPER: 0.2, PLAIN_TYPER: 0.1, "`--help` of `orchestrator`": 0.23})

    told = {cells[1]: cells[3:5] for line in report.targets(figures).splitlines()[2:] if (cells := line.split(" | "))}

    assert told == {
        "<= 0.12": ["reached |"],
        "<= 0.4": ["**missed** |"],
        "<= 0.55": ["**missed** |"],
        "<= 1.3": ["reached |"],
        "<= 1.2": ["reached |"],
    }


def test_requests_of_the_median_run_are_shown_by_verb():
    many = {"get pods": 7, "list pods": 1}
    figures = Figures((row(KUBECTL, requests=many), *(row(OURS, requests={"list pods": n}) for n in (9, 2, 1))))

    assert "| 7 get pods, 1 list pods | 2 list pods | 0 / 0 |" in report.requests(figures)


def test_the_latency_of_others_is_that_of_all_runs_together():
    figures = Figures(
        (
            row(NOBODY, other_ms=(1.0,)),
            row(KUBECTL, other_ms=(2.0,)),
            row(OURS, other_ms=(5.0,)),
            row(OURS, other_ms=(3.0,)),
        )
    )

    assert "| 1.0 / 1.0 | 2.0 / 2.0 | 5.0 / 5.0 |" in report.others(figures)


def test_a_sweep_is_no_comparison():
    figures = Figures((row(OURS, parallel=4, pods=250), row(OURS, parallel=1, pods=250)))

    assert figures.compared() == ()
    assert [line.split(" | ")[2] for line in report.sweep(figures).splitlines()[2:]] == ["1", "4"]


def test_new_runs_replace_those_of_the_same_measurement_only():
    old = Figures((row(OURS, wall_s=9.0), row(OURS, parallel=4), row(OURS, scenario="slow")))

    new = old.with_rows([row(OURS, wall_s=1.0)])

    assert [r.run.wall_s for r in new.rows if (r.scenario, r.parallel) == ("free", 0)] == [1.0]
    assert len(new.rows) == 3


def test_figures_are_read_back_as_they_were_kept(tmp_path):
    figures = Figures((row(KUBECTL), row(OURS, parallel=16)), {TYPER: 0.17})
    path = tmp_path / "figures.json"

    assert Figures.load(path) == Figures()
    path.write_text(json.dumps(figures.as_json()))

    assert Figures.load(path) == figures


def test_tables_go_into_their_places_in_a_page_and_all_else_stays(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Title\n\n<!-- startup -->\nold\n<!-- end -->\n\n<!-- sweep -->\nkept\n<!-- end -->\n")

    report.write(Figures(startup={TYPER: 0.2}), page)

    text = page.read_text()
    assert "old" not in text
    assert "<!-- sweep -->\nkept\n<!-- end -->\n" in text
    assert f"| {TYPER} | 200 | **1.00** |" in text


def test_a_table_without_a_place_in_the_page_is_an_error(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("# Title\n")

    with pytest.raises(LabError, match="no place for `startup`"):
        report.write(Figures(startup={TYPER: 0.2}), page)


def command(tmp_path, script, **changed):
    how = {"audit": tuple, "probe": lambda: None, "servers": (), "said": tmp_path / "said", **changed}
    return measure.measure(["sh", "-c", script], {"PATH": "/usr/bin:/bin"}, **how)


def test_peak_memory_is_the_commands_and_not_that_of_the_process_which_measures_it(tmp_path):
    ballast = bytearray(64 * 2**20)

    measured = command(tmp_path, ":")

    assert measured.peak_mib < len(ballast) / 2**20


def test_a_command_that_fails_is_measured_and_what_it_said_is_kept(tmp_path):
    measured = command(tmp_path, "echo out; echo err >&2; exit 3")

    assert measured.code == 3
    assert (tmp_path / "said").read_text().split() == ["out", "err"]


def test_only_requests_made_while_the_command_runs_count(tmp_path):
    refused = audit.Request("create", "pods/eviction", 429, "kubectl")
    asked = iter([(refused, refused), (refused,)])

    measured = command(tmp_path, ":", audit=lambda: next(asked))

    assert (measured.total, measured.refused) == (1, 1)
    assert measured.other_ms


def test_connections_are_compared_with_ansible_s_by_their_medians():
    runs = {
        ssh.OURS: [ssh.Taken(4.0, 1.0), ssh.Taken(6.0, 2.0), ssh.Taken(5.0, 1.0)],
        ssh.DEFAULTS: [ssh.Taken(10.0, 20.0)],
        ssh.UNKEPT: [ssh.Taken(8.0, 10.0)],
    }

    lines = ssh.text(runs).splitlines()

    assert lines[2:5] == [
        "| orchestrator | 3 | 5.00 |  | 1.00 |  |",
        "| ansible | 1 | 10.00 | **0.50** | 20.00 | **0.05** |",
        "| ansible, ControlMaster=no | 1 | 8.00 | **0.62** | 10.00 | **0.10** |",
    ]
    assert lines[-1].endswith("measured 0.50: reached.")


def test_the_table_of_connections_has_a_place_in_the_page_of_figures(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text("before\n<!-- ssh -->\nold\n<!-- end -->\nafter\n")

    ssh.write("new", page)

    assert page.read_text() == "before\n<!-- ssh -->\n\nnew\n\n<!-- end -->\nafter\n"
    page.write_text("nothing")
    with pytest.raises(LabError, match="no place"):
        ssh.write("new", page)


def restored(tool, away_s, **changed):
    return restores.Restored(**{"tool": tool, "shape": "3+1", "took_s": 90.0, "away_s": away_s, "failed": 7, **changed})


@pytest.mark.parametrize(("ours_s", "verdict"), [(35.0, "<= 0.5: reached"), (36.0, "<= 0.5: **missed**")])
def test_a_restore_is_judged_by_how_long_the_api_was_away_beside_the_textbook_s(ours_s, verdict):
    told = restores.text([restored("textbook", 70.0), restored("orchestrator", ours_s, took_s=45.0)])

    assert f"| 3+1 | API away, s | 70.0 | {ours_s} | **{ours_s / 70:.2f}** | {verdict} |" in told
    assert "| 3+1 | whole time, s | 90.0 | 45.0 | **0.50** |  |" in told


def test_one_tool_alone_is_no_comparison():
    assert "3+1" not in restores.text([restored("textbook", 70.0)])
