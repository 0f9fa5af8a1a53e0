"""From the arguments of a command that changes something to its plan, its run and its result."""

from __future__ import annotations

import difflib
import re
import sys
from typing import TYPE_CHECKING, Any

import typer

from orchestrator.app import DryRun
from orchestrator.cli.output import show
from orchestrator.engine.plan import Done
from orchestrator.errors import ApiNotFound, BadUsage, OrchestratorError
from orchestrator.report import plans

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestrator.app import App, Outcome
    from orchestrator.cli.options import DryRunChoice, Output
    from orchestrator.engine.plan import Plan
    from orchestrator.engine.runner import Preview

_NAME = r"([A-Za-z0-9][-A-Za-z0-9_./]*)"
_VALUE = r"[-A-Za-z0-9_.]*"
_SELECTOR = re.compile(
    rf"^\s*(?:!?{_NAME}|{_NAME}\s*(?:=|==|!=)\s*{_VALUE}|{_NAME}\s+(?:in|notin)\s+\({_VALUE}(?:\s*,\s*{_VALUE})*\))\s*$"
)


def arguments(nodes: Sequence[str] | None, selector: str) -> None:
    """Refuse what cannot be meant, before anything is sent.

    Raises:
        BadUsage: Neither or both of names and a selector, or a selector that is none.
    """
    if nodes and selector:
        raise BadUsage("name nodes or give a --selector, not both", remedy="leave one of them out")
    if not nodes and not selector:
        raise BadUsage("no node is named", remedy="name one or more nodes, or select them with -l LABEL=VALUE")
    check_selector("--selector", selector)


def check_selector(flag: str, selector: str) -> None:
    """Refuse a label selector that the API server would not understand.

    Source: API concepts, "Labels and selectors": requirements joined by commas.
    """
    parts = [p for p in re.split(r",(?![^(]*\))", selector) if selector]
    if not all(_SELECTOR.match(p) for p in parts):
        raise BadUsage(
            f"{flag}={selector} is not a label selector",
            remedy=f"for example {flag}=role=web or {flag}='zone in (a,b)'",
        )


def targets(app: App, nodes: Sequence[str] | None, selector: str, *, allow_empty: bool) -> tuple[str, ...]:
    """The nodes that are meant, each once; all of them exist.

    Raises:
        BadUsage: A name is no node's, or the selector matches none.
        typer.Exit: It matches none and that is allowed.
    """
    reader = app.reader
    if selector:
        found = tuple(n.name for n in reader.nodes(selector))
        if found:
            return found
        if allow_empty:
            sys.stderr.write(f"no node matches {selector}: nothing to do\n")
            raise typer.Exit
        raise BadUsage(f"no node matches the selector {selector}", remedy="check it, or pass --allow-empty")
    names = tuple(dict.fromkeys(n.removeprefix("node/").removeprefix("nodes/") for n in nodes or ()))
    for name in names:
        try:
            reader.node(name)
        except ApiNotFound as err:
            known = [n.name for n in reader.nodes()]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known nodes: {', '.join(known[:20])}"
            raise BadUsage(f"there is no node {name!r}; nothing was changed", remedy=hint) from err
    return names


def dry_run(choice: DryRunChoice) -> DryRun:
    """The application's word for the option's."""
    return DryRun(choice.value)


def carry_out(app: App, plan: Plan, output: Output, done: str, *, short: str = "") -> None:
    """Perform the plan, show its result, and exit with its code.

    Args:
        app: The application.
        plan: What is to be done.
        output: The form of the result.
        done: The past participle for a finished node, such as `drained`.
        short: The plan for people, where it is shorter than a line a step; a dry run shows each step.
    """
    finish(app, performed(app, plan, short=short), output, done)


def performed(app: App, plan: Plan, *, short: str = "", noted: Mapping[str, str] | None = None) -> Outcome:
    """How the plan went, which is shown first; `short` as in `carry_out`, `noted` as in `App.perform`."""

    def shown(previews: tuple[Preview, ...]) -> None:
        if short and app.settings.dry_run is DryRun.NONE:
            sys.stderr.write(short)
        else:
            _show_plan(app, previews)

    return app.perform(plan, shown=shown, noted=noted)


def performed_or(
    app: App, plan: Plan, *, clear: Callable[[], None], failed: Callable[[OrchestratorError], None]
) -> Outcome:
    """As `performed`. What was made for a plan that was not begun is cleared; of one that failed more is told."""
    begun = False
    try:
        outcome = performed(app, plan)
        begun = bool(outcome.run)
    except OrchestratorError as err:
        begun = bool(err.run)
        if begun:
            failed(err)
        raise
    finally:
        if not begun:
            clear()
    return outcome


def released(app: App, run: str, output: Output) -> None:
    """Release a run, show the result, and exit with its code."""
    finish(app, app.release(run, shown=lambda previews: _show_plan(app, previews)), output, "as it was found")


def _show_plan(app: App, previews: tuple[Preview, ...]) -> None:
    if app.settings.dry_run is not DryRun.NONE or len({p.step.node for p in previews}) > 1:
        sys.stderr.write(plans.text(previews))


def finish(
    app: App, outcome: Outcome, output: Output, done: str, *, more: Mapping[str, Any] | None = None, said: str = ""
) -> None:
    """Show the result, and exit with its code; `more` is added to the document, `said` to what people read."""
    answers = app.rehearse(outcome.previews) if app.settings.dry_run is DryRun.SERVER else ()
    if answers:
        sys.stderr.write(plans.answers_text(answers))
    table = _table(app, outcome, done)
    show(output, "RunResult", {**_body(app, outcome, done), **(more or {})}, f"{table}\n{said}" if said else table)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _suffix(app: App) -> str:
    return {DryRun.NONE: "", DryRun.CLIENT: " (dry run)", DryRun.SERVER: " (server dry run)"}[app.settings.dry_run]


def _table(app: App, outcome: Outcome, done: str) -> str:
    lines = []
    for node in outcome.plan.nodes():
        mine = [p for p in outcome.previews if p.step.node == node]
        nothing = all(isinstance(p.decision, Done) for p in mine)
        lines.append(f"node/{node} {'already ' if nothing else ''}{done}{_suffix(app)}")
    return "\n".join(lines)


def _body(app: App, outcome: Outcome, done: str) -> dict[str, Any]:
    return {
        "run": outcome.run or None,
        "command": outcome.plan.kind,
        "dryRun": app.settings.dry_run.value,
        "outcome": done if not outcome.exit_code else "needed",
        "steps": [plans.step_body(p) for p in outcome.previews],
    }
