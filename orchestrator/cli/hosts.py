"""`hosts check` and `hosts trust`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.commands import Commands
from orchestrator.cli.options import UNREACHED, Context, Kubeconfig, Nodes, Output, OutputOption, Ssh

if TYPE_CHECKING:
    from orchestrator.hosts.secrets import Secrets

Hosts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[HOST]...", help="Nodes, addresses, or other hosts that ~/.ssh/config reaches."),
]
All = Annotated[bool, typer.Option("--all", help="Every node of the cluster.")]
Replace = Annotated[bool, typer.Option("--replace", help="Keys that have changed take the place of the known ones.")]
Sure = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask: the fingerprints were compared elsewhere.")]
Parallel = Annotated[int, typer.Option("--parallel", min=1, max=256, help="Hosts looked at once.")]

#: Who only looks is told soon.
PATIENCE_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    hosts = Commands(help="Reach the nodes themselves, by SSH or through their container runtime.")
    hosts.command(epilog="Example:  orchestrator hosts check -o json | jq '.hosts[] | select(.error != \"\")'")(check)
    hosts.command(epilog="Example:  orchestrator hosts trust node-1 bastion")(trust)
    app.add_typer(hosts, name="hosts", rich_help_panel=None)


def check(
    nodes: Nodes = None,
    parallel: Parallel = 32,
    output: OutputOption = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh: Ssh = False,
) -> None:
    """Reach nodes, all of them or those that are named, and show as whom, how root is become, and how fast.

    Nodes and their addresses come from the cluster, SSH settings from ~/.ssh/config. It changes nothing.

    Exits with 11 when one cannot be worked on, else with 0.
    """
    from orchestrator import reach  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say, show  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import hosts as report  # noqa: PLC0415

    app = application(kubeconfig=kubeconfig, context=context, patience_s=PATIENCE_S, ssh=ssh)
    where = reach.places(app, nodes or (), say=say)
    with reach.pool(app, _secrets(), PATIENCE_S) as hosts:
        found = reach.check(hosts, where, at_once=parallel)
    show(output, "HostList", bodies.body(report.host_list(found)), report.checked(found))
    if any(host.error for host in found):
        raise typer.Exit(UNREACHED)


def trust(
    names: Hosts = None,
    everything: All = False,
    replace: Replace = False,
    yes: Sure = False,
    output: OutputOption = Output.TABLE,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
    ssh: Ssh = False,
) -> None:
    """Show the keys of hosts, and trust them from now on.

    Compare each fingerprint with what the host says of itself on its own console, or what its installer printed:
    `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`. The keys go into the known_hosts file that ssh reads, too.
    A host that does not answer keeps nobody from trusting the others; it exits with 11 then.
    A key that is not the known one is refused unless --replace is given; a revoked one always.
    """
    from orchestrator import reach  # noqa: PLC0415
    from orchestrator.cli.context import application  # noqa: PLC0415
    from orchestrator.cli.output import say, show  # noqa: PLC0415
    from orchestrator.errors import BadUsage  # noqa: PLC0415
    from orchestrator.report import bodies  # noqa: PLC0415
    from orchestrator.report import hosts as report  # noqa: PLC0415

    if bool(names) == everything:
        raise BadUsage("name hosts, or pass --all", remedy="for example: orchestrator hosts trust node-1")
    app = application(kubeconfig=kubeconfig, context=context, patience_s=PATIENCE_S, ssh=ssh)
    where = reach.places(app, names or (), say=say)
    with reach.pool(app, _secrets(), PATIENCE_S) as hosts:
        shown, away = reach.keys(hosts, where, replacing=replace)
        vouched = [v for _, _, mine in shown for v in mine]
        new = [v for v in vouched if v.state != "known"]
        say(report.keys(vouched))
        if new and not yes:
            _ask(len(new), len({v.host for v in new}))
        for place, keys, _ in shown if new else ():
            reach.trust(hosts, place, keys, replacing=replace)
    files = ", ".join(dict.fromkeys(v.file for v in new))
    table = f"trusted from now on, in {files}" if new else "all of these are known already"
    show(output, "HostKeyList", bodies.body(report.key_list(vouched)), table)
    if away:
        raise away


def _ask(keys: int, hosts: int) -> None:
    from orchestrator.cli.context import attended  # noqa: PLC0415
    from orchestrator.errors import Refused  # noqa: PLC0415
    from orchestrator.report.text import count  # noqa: PLC0415

    what = f"{count(keys, 'key')} of {count(hosts, 'host')}"
    if not attended():
        raise Refused(
            f"trusting {what} has to be confirmed, and there is no terminal to ask on; nothing was changed",
            remedy="compare the fingerprints above, then pass --yes",
        )
    sys.stderr.write(f"compared? trust {what}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Refused(f"{what}: not confirmed; nothing was changed", remedy="compare the fingerprints, then repeat")


def _secrets() -> Secrets:
    from orchestrator.cli.context import attended, secret  # noqa: PLC0415
    from orchestrator.hosts.secrets import Secrets  # noqa: PLC0415

    return Secrets(secret if attended() else None)
