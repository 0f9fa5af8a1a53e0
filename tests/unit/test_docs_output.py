"""docs/output.md describes every document and every event of the code, and none that there is not."""

import ast
import functools
import json
import re
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
import yaml

from orchestrator.app import DryRun
from orchestrator.backup import records
from orchestrator.cluster.checkup import Level
from orchestrator.cluster.overview import EtcdHealth
from orchestrator.cluster.situation import Severity
from orchestrator.cluster.unmanaged import Fate, Kind
from orchestrator.cluster.versions import Skew
from orchestrator.engine.journal import STATES
from orchestrator.report import bodies, contents, etcdshapes, shapes

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "output.md").read_text()
NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
#: Kind -> its document.
KINDS = (
    shapes.KINDS
    | contents.KINDS
    | {
        kind.__name__: kind
        for kind in vars(etcdshapes).values()
        if isinstance(kind, type) and "api_version" in getattr(kind, "__struct_fields__", ())
    }
)
#: How a member of etcd runs; see `cluster.etcdhosts`.
HOW = ("static pod", "service", "process", "stopped")
#: What `_emit_of` and an action's `emit` add to an event.
COMMON = {"run", "node", "step", "action"}


# ---- reading the document -------------------------------------------------------------------------------------


def sections():
    """Heading -> what stands below it, down to the next one of any depth."""
    found = re.split(r"^#{2,3} (.*)\n", TEXT, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


def rows(section):
    """The cells of each row of the tables of a section, without their heads."""
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


SECTIONS = sections()


# ---- reading the code -----------------------------------------------------------------------------------------


def part_of(annotation):
    """The shapes that an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, shapes.Shape):
        return {annotation}
    return {shape for inner in getattr(annotation, "__args__", ()) for shape in part_of(inner)}


def all_shapes(roots):
    found = set()
    todo = list(roots)
    while todo:
        shape = todo.pop()
        if shape not in found:
            found.add(shape)
            todo += [part for field in msgspec.structs.fields(shape) for part in part_of(field.type)]
    return sorted(found, key=lambda shape: shape.__name__)


def words(annotation):
    """A type as the document writes it."""
    arguments = getattr(annotation, "__args__", ())
    if type(None) in arguments:
        return " or ".join([*(words(a) for a in arguments if a is not type(None)), "null"])
    if getattr(annotation, "__origin__", None) is list:
        return f"list of {words(arguments[0])}"
    if getattr(annotation, "__origin__", None) is dict:
        return f"map of {words(arguments[0])} to {words(arguments[1])}"
    return NAMES.get(annotation) or annotation.__name__.removesuffix("Shape")


def constants(node):
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]


@functools.cache
def events():
    """Event name -> its levels, and its own fields: what stands at the calls that emit it."""
    levels, fields = defaultdict(set), defaultdict(set)
    for path in sorted((ROOT / "orchestrator").rglob("*.py")):
        if path.parent.name == "report":
            continue  # it shows events, and emits none
        tree = ast.parse(path.read_text())
        defaults = {
            function.name: [ast.literal_eval(value) for value in function.args.kw_defaults if value is not None]
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name in ("emit", "_emit", "_emit_of")
        }
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                callee = getattr(call.func, "attr", getattr(call.func, "id", ""))
                if callee not in ("emit", "_emit", "_emit_of", "Event"):
                    continue
                for name in names(call, function):
                    fields[name] |= own_fields(call)
                    levels[name] |= own_levels(call, defaults.get(callee, []))
    return levels, fields


def names(call, function):
    """The event names of a call: written in it, or in an assignment to the variable that it passes."""
    passed = [a for a in call.args[:2] if isinstance(a, ast.Constant | ast.Name)]
    written = [value for argument in passed for value in constants(argument)]
    for variable in (a.id for a in passed if isinstance(a, ast.Name)):
        for assignment in (n for n in ast.walk(function) if isinstance(n, ast.Assign)):
            if any(isinstance(t, ast.Name) and t.id == variable for t in assignment.targets):
                written += constants(assignment.value)
    return {value for value in written if re.fullmatch(r"[a-z]+\.[a-z_]+", value)}


def own_fields(call):
    given = {k.arg for k in call.keywords if k.arg and k.arg != "level"}
    given |= {k.value for a in call.args if isinstance(a, ast.Dict) for k in a.keys if isinstance(k, ast.Constant)}
    return given - {"run"}  # it is in all events


def own_levels(call, defaults):
    given = [value for k in call.keywords if k.arg == "level" for value in constants(k.value)]
    given += [a.value for a in call.args[2:] if isinstance(a, ast.Constant)]
    return {value for value in given if value in LEVELS} or set(defaults) or {"info"}


LEVELS = ("debug", "info", "warning", "error")


# ---- documents ------------------------------------------------------------------------------------------------


def test_every_kind_has_a_section_of_its_own():
    assert set(KINDS) <= set(re.findall(r"^## (.*)$", TEXT, re.MULTILINE))


@pytest.mark.parametrize("shape", all_shapes(KINDS.values()), ids=lambda shape: shape.__name__)
def test_a_table_has_each_field_of_its_shape_with_its_type_and_no_other(shape):
    documented = {quoted(row[0])[0]: row[1] for row in rows(SECTIONS[shape.__name__.removesuffix("Shape")])}

    assert {f.encode_name: words(f.type) for f in msgspec.structs.fields(shape)} == documented


def test_no_section_describes_a_shape_that_there_is_not():
    other = {"What the version promises", "Events", "Fields of all events", "Names", "Waiting"}

    assert {s.__name__.removesuffix("Shape") for s in all_shapes(KINDS.values())} == set(SECTIONS) - other


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_kind_is_such_a_document(kind):
    [example] = re.findall(r"```json\n(.*?)```", SECTIONS[kind], re.DOTALL)

    found = msgspec.json.decode(example, type=KINDS[kind])
    assert (bodies.API_VERSION, kind) == (found.api_version, found.kind)
    assert json.loads(example) == yaml.safe_load(example)


@pytest.mark.parametrize(
    ("section", "field", "values"),
    [
        ("Node", "skew", Skew),
        ("Etcd", "health", EtcdHealth),
        ("Unmanaged", "kind", Kind),
        ("Consequence", "fate", Fate),
        ("DoctorReport", "outcome", [Level.FAILED]),
        ("Finding", "level", Level),
        ("RunResult", "dryRun", DryRun),
        ("UpgradePlan", "strategy", ["rolling", "all-at-once"]),
        ("UpgradeFinding", "severity", Severity),
        ("EtcdHost", "how", HOW),
        ("Snapshot", "reason", records.REASONS),
        ("Run", "state", {*STATES.values(), "running", "damaged"}),
    ],
)
def test_a_field_with_a_list_of_values_names_them_all(section, field, values):
    [meaning] = [row[2] for row in rows(SECTIONS[section]) if quoted(row[0]) == [field]]

    assert set(map(str, values)) <= set(quoted(meaning))


def test_the_actions_of_steps_are_those_that_plans_are_made_of():
    planners = [path.read_text() for path in (ROOT / "orchestrator" / "planners").glob("*.py")]
    planned = {name for text in planners for name in re.findall(r'"([a-z]+\.[a-z_]+)"', text)}
    [meaning] = [row[2] for row in rows(SECTIONS["Step"]) if quoted(row[0]) == ["action"]]

    assert planned == set(quoted(meaning))


def test_the_version_is_the_one_of_the_code():
    assert f"apiVersion: {bodies.API_VERSION}" in SECTIONS["What the version promises"]


# ---- events ---------------------------------------------------------------------------------------------------


def test_the_names_of_events_are_those_of_the_code():
    levels, _ = events()

    assert sorted(levels) == sorted(quoted(row[0])[0] for row in rows(SECTIONS["Names"]))


@pytest.mark.parametrize("row", rows(SECTIONS["Names"]), ids=lambda row: quoted(row[0])[0])
def test_an_event_has_the_levels_and_the_fields_of_the_code(row):
    levels, fields = events()
    [name] = quoted(row[0])

    documented = {word for word in quoted(row[2]) if re.fullmatch(r"[a-z_]+", word)}
    assert levels[name] == set(row[1].split(", "))
    assert fields[name] <= documented
    assert documented <= fields[name] | COMMON | {"finished", "changed", "skipped", "failed", "explain"}


def test_what_is_waited_for_has_the_fields_of_the_code():
    tree = ast.parse((ROOT / "orchestrator" / "actions" / "drain.py").read_text())
    keys = [{k.value for k in n.keys if isinstance(k, ast.Constant)} for n in ast.walk(tree) if isinstance(n, ast.Dict)]

    assert [k for k in keys if "for_s" in k] == [{quoted(row[0])[0] for row in rows(SECTIONS["Waiting"])}]


def test_the_example_of_an_event_is_one_of_those_below():
    [line] = re.findall(r"```json\n(.*?)\n```", SECTIONS["Events"], re.DOTALL)

    example = json.loads(line)
    _, fields = events()
    assert fields[example["event"]] == set(example) - {"event", "level", "at", "run"}
