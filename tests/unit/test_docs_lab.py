"""docs/lab.md names every command of the lab and every target of make, and none that there is not."""

import argparse
import re
from pathlib import Path

import pytest

from lab import cli, gobuild, network, versions

ROOT = Path(__file__).parents[2]
LAB = (ROOT / "docs" / "lab.md").read_text()
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
MAKEFILE = (ROOT / "Makefile").read_text()
COMMAND = re.compile(r"python -m lab ([a-z][a-z-]*)((?: [^\s`#]+)*)")


def subcommands(parser):
    """Word -> parser of the commands below a parser."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(groups[0].choices) if groups else {}


def options(parser):
    return {option for action in parser._actions for option in action.option_strings}


PARSER = cli._parser()


@pytest.mark.parametrize("page", PAGES)
def test_a_command_that_a_page_names_exists_with_its_options(page):
    for word, rest in COMMAND.findall(PAGES[page]):
        parser = subcommands(PARSER)[word]
        words = rest.split(" -- ")[0].split()
        below = subcommands(parser)
        if words and words[0] in below:
            parser = below[words[0]]
        else:
            assert not below or parser.get_default("run"), f"{word} is no command by itself"

        assert {w for w in words if w.startswith("--")} <= options(parser), f"{word} {rest}"


def test_every_command_is_in_the_document():
    documented = {word for word, _ in COMMAND.findall(LAB)}
    deeper = {(word, rest.split()[0]) for word, rest in COMMAND.findall(LAB) if rest.split()}

    assert set(subcommands(PARSER)) <= documented
    assert {(w, b) for w, p in subcommands(PARSER).items() for b in subcommands(p)} <= deeper


def test_every_target_of_make_is_in_the_document_and_no_other():
    targets = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))

    assert targets | {"help"} == set(re.findall(r"^\| `make ([a-z-]+)` \|", LAB, re.MULTILINE))
    assert all(set(re.findall(r"(?:`|^    )make ([a-z-]+)", t, re.MULTILINE)) <= targets for t in PAGES.values())


def test_every_program_that_is_built_is_in_the_document_with_its_version():
    built = {(binary, program.version) for program in gobuild.programs() for binary in program.commands.values()}
    rows = [row.lower() for row in re.findall(r"^\| (?:kube|etcd|Core|kind|kwok|versitygw).*$", LAB, re.MULTILINE)]

    assert all(any(binary in row and version in row for row in rows) for binary, version in built)


def test_the_addresses_are_those_of_the_network():
    named = (network.RANGE, network.NODES, network.PODS, network.SERVICES, network.GATEWAY, network.BRIDGE)

    assert [part for part in named if part not in LAB] == []
    assert versions.DEFAULT in LAB
