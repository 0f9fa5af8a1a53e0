"""The lab's command line: arguments in, one stage called, one line out."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from lab import cache, cluster, demo, gobuild, host, images, progress, ssh, state, versions
from lab.api import cli as api
from lab.bench import cli as bench
from lab.errors import LabError
from lab.state import Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_NAME = "lab"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of one command."""
    args = _parser().parse_args(argv)
    code = 1
    try:
        code = args.run(args)
    except LabError as error:
        print(f"error: {error}\nremedy: {error.remedy}", file=sys.stderr)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lab", description="real clusters on this machine, to rehearse on")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_cluster_commands(commands)
    _add_node_commands(commands)
    for part in (api, demo, bench):
        part.add(commands)
    return parser


def _add_cluster_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    everything = tuple(versions.KUBERNETES)
    up = commands.add_parser("up", help="start a cluster, or use the one that is there")
    up.add_argument("--name", default=DEFAULT_NAME)
    up.add_argument("--shape", default="1+2", help="control planes + workers (default: 1+2)")
    up.add_argument("--version", default=versions.DEFAULT, help=f"of Kubernetes: {', '.join(everything)}")
    up.add_argument(
        "--offer", nargs="+", default=versions.USUAL, metavar="VERSION", help="apt packages and images at hand"
    )
    up.add_argument("--image", default="", metavar="kindest/node:TAG", help="a published node image instead of our own")
    up.set_defaults(run=_up)

    prepare = commands.add_parser("prepare", help="build all that `up` and `api up` need, and start nothing")
    prepare.add_argument("--offer", nargs="+", default=versions.USUAL, metavar="VERSION", help="for these versions")
    prepare.add_argument("--version", default=versions.DEFAULT, help="of the node image")
    prepare.set_defaults(run=_prepare)

    down = commands.add_parser("down", help="remove a cluster, also one that was left half made")
    which = down.add_mutually_exclusive_group()
    which.add_argument("--name", default=DEFAULT_NAME)
    which.add_argument("--all", action="store_true")
    down.set_defaults(run=_down)

    commands.add_parser("status", help="clusters and nodes").set_defaults(run=_status)
    kubeconfig = commands.add_parser("kubeconfig", help="the path of a cluster's kubeconfig")
    kubeconfig.add_argument("--name", default=DEFAULT_NAME)
    kubeconfig.set_defaults(run=_kubeconfig)
    commands.add_parser("images", help="the image archives that were built").set_defaults(run=_images)
    commands.add_parser("clean", help="remove all that was built").set_defaults(run=_clean)


def _add_node_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    shell = commands.add_parser("ssh", help="a shell or a command on a node")
    shell.add_argument("node")
    shell.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    shell.set_defaults(run=_ssh)

    power = commands.add_parser("power", help="the power button of a node")
    power.add_argument("node")
    power.add_argument("action", choices=("off", "on", "cycle"))
    power.set_defaults(run=_power)

    cable = commands.add_parser("network", help="the network cable of a node")
    cable.add_argument("node")
    cable.add_argument("action", choices=("cut", "heal"))
    cable.set_defaults(run=_network)


def _up(args: argparse.Namespace) -> int:
    _leave_at_once_when_interrupted()
    request = cluster.Request(args.name, Shape.parse(args.shape), args.version, tuple(args.offer), args.image)
    made = cluster.up(request)
    progress.say(f"{made.name} is up: {made.shape} nodes, Kubernetes {made.version or made.image}")
    print(f"kubectl --kubeconfig {made.kubeconfig} --context {made.context} get nodes")
    return 0


def _prepare(args: argparse.Namespace) -> int:
    _leave_at_once_when_interrupted()
    cluster.build(cluster.Request(DEFAULT_NAME, Shape.parse("1+2"), args.version, tuple(args.offer)))
    gobuild.kwok()
    return 0


def _down(args: argparse.Namespace) -> int:
    names = [known.name for known in state.clusters()] if args.all else [args.name]
    for name in names:
        progress.say(f"{name} is gone" if cluster.down(name) else f"there is no cluster {name}")
    if args.all:
        for name in api.names():
            with state.lock(f"api-{name}"):
                api.down(name)
            progress.say(f"control plane {name} is gone")
        cluster.tidy()
    return 0


def _status(_: argparse.Namespace) -> int:
    lines = cluster.table(state.clusters())
    print("\n".join(lines) if lines else "no clusters")
    return 0


def _kubeconfig(args: argparse.Namespace) -> int:
    known = state.load(args.name)
    if known is None:
        raise LabError(f"there is no cluster {args.name}", remedy=f"python -m lab up --name {args.name}")
    print(known.kubeconfig)
    return 0


def _images(_: argparse.Namespace) -> int:
    for contents in sorted(cache.root().glob(f"images-*/{images.CONTENTS}")):
        print(contents.parent)
        for image in json.loads(contents.read_text()):
            files = image["files"]
            what = ", ".join(files) if len(files) < 6 else f"{len(files)} files"
            print(f"  {image['tag']:<55} {image['size_bytes'] / 2**20:6.1f} MiB  {what}")
    return 0


def _clean(_: argparse.Namespace) -> int:
    running = [f"cluster {known.name}" for known in state.clusters()]
    running += [f"control plane {name}" for name in api.names()]
    if running:
        raise LabError(f"still up: {', '.join(running)}", remedy="python -m lab down --all")
    cluster.tidy()
    if cache.root().exists():
        shutil.rmtree(cache.root())
    progress.say(f"removed {cache.root()}")
    return 0


def _ssh(args: argparse.Namespace) -> NoReturn:
    where, node = cluster.find_node(args.node)
    if node.role == "load-balancer":
        raise LabError(f"{node.name} has no ssh: it is no node", remedy=f"docker exec -it {node.name} bash")
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    ssh.become(where, node.name, words)


def _power(args: argparse.Namespace) -> int:
    host.check_machine()
    where, node = cluster.find_node(args.node)
    cluster.power(node, where, args.action)
    return 0


def _network(args: argparse.Namespace) -> int:
    host.check_machine()
    where, node = cluster.find_node(args.node)
    cluster.cut(node, where, heal=args.action == "heal")
    return 0


def _leave_at_once_when_interrupted() -> None:
    """On Ctrl-C or SIGTERM do as after kill -9, but say what next: what works for us ends with us, daemons stay."""

    def leave(_signal: int, _frame: object) -> NoReturn:
        print("stopped; `python -m lab down` removes what was begun, `up` begins again", file=sys.stderr, flush=True)
        os._exit(130)

    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, leave)
