"""What `doctor` found, judged: each finding with its evidence and what to do about it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from orchestrator.cluster import versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PYTHON_FROM = (3, 11)
#: Minor versions of Kubernetes 1 that are supported, and those of them that the tests run on.
SUPPORTED = range(31, 38)
TESTED = (36, 37)
#: An answer slower than this makes every command slow.
SLOW_S = 1.0
#: Leases and certificates go by the clock.
CLOCK_S = 5.0
#: What ends sooner than this should be renewed now.
SOON_S = 30 * 86400.0


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: What.
        evidence: What was seen.
        remedy: What to do; "" when there is nothing.
    """

    check: str
    level: Level
    evidence: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """How an API server answered.

    Attributes:
        version: Its own word.
        took_s: For one small request.
        ahead_s: How far its clock is ahead of ours; None when it did not tell. Good to about a second.
    """

    version: str
    took_s: float
    ahead_s: float | None


@dataclass(frozen=True, slots=True)
class Credentials:
    """With what a user proves who they are.

    Attributes:
        kind: `client certificate`, `token` or `none`.
        end: When they end; None when that cannot be told.
        renews: Something renews them by itself.
    """

    kind: str
    end: float | None
    renews: bool = False


def python(version: Sequence[int]) -> Finding:
    """The interpreter."""
    said = ".".join(str(n) for n in version[:3])
    if tuple(version[:2]) >= PYTHON_FROM:
        return Finding("python", Level.OK, said)
    wanted = ".".join(str(n) for n in PYTHON_FROM)
    return Finding("python", Level.FAILED, said, f"install Python {wanted} or later")


def mode(check: str, path: str, mode: int, *, directory: bool) -> Finding:
    """A file or directory that others must not read, by its permission bits."""
    said = f"{path} (mode {mode:04o})"
    if not mode & 0o077:
        return Finding(check, Level.OK, said)
    fix = "0700" if directory else "0600"
    return Finding(check, Level.WARNING, f"{said}: others on this machine can get at it", f"chmod {fix} {path}")


def connection(server: str, answer: ServerAnswer) -> Finding:
    """How fast the server answers."""
    said = f"{server} answers in {answer.took_s * 1000:.0f} ms"
    if answer.took_s <= SLOW_S:
        return Finding("connection", Level.OK, said)
    return Finding("connection", Level.WARNING, said, "look at the network, a proxy, or the load of the API server")


def clock(ahead_s: float | None) -> Finding:
    """This machine's clock against the server's."""
    if ahead_s is None:
        return Finding("clock", Level.WARNING, "not known: the server's answer has no date")
    if abs(ahead_s) <= CLOCK_S:
        return Finding("clock", Level.OK, f"within {math.ceil(abs(ahead_s))} s of the server's")
    side = "behind" if ahead_s > 0 else "ahead of"
    text = f"{abs(ahead_s):.0f} s {side} the server's: locks and certificates are judged wrongly"
    return Finding("clock", Level.WARNING, text, "set the clock of this machine: chronyc or timedatectl show it")


def server_version(text: str) -> Finding:
    """Whether the server's version is supported, and whether it was tested."""
    version = versions.parse(text)
    known = f"supported: 1.{SUPPORTED[0]} to 1.{SUPPORTED[-1]}, tested: {', '.join(f'1.{m}' for m in TESTED)}"
    if version is None:
        return Finding("server version", Level.WARNING, f"not known ({text or 'the server does not tell'}); {known}")
    if version.major != 1 or version.minor not in SUPPORTED:
        remedy = "rehearse on a test cluster first, or use the version of this tool that supports it"
        return Finding("server version", Level.WARNING, f"{text} is not supported; {known}", remedy)
    return Finding("server version", Level.OK, f"{text}; {known}")


def end(check: str, subject: str, at: float | None, now: float, remedy: str) -> Finding:
    """Something that ends at a time; `remedy` renews it."""
    if at is None:
        return Finding(check, Level.WARNING, f"{subject}: when it ends is not known from here")
    if at <= now:
        return Finding(check, Level.FAILED, f"{subject} ended {_days(now - at)} ago", remedy)
    level = Level.WARNING if at - now < SOON_S else Level.OK
    return Finding(check, level, f"{subject} ends in {_days(at - now)}", remedy if level is Level.WARNING else "")


def credentials(found: Credentials, now: float) -> Finding:
    """The user's credentials."""
    remedy = "get a fresh kubeconfig, or log in again (kubeadm: kubeadm certs renew admin.conf)"
    if found.kind == "none":
        return Finding("credentials", Level.WARNING, "none: every request is anonymous", remedy)
    if found.renews:
        return Finding("credentials", Level.OK, f"{found.kind}, renewed by its plugin")
    if found.kind == "token" and found.end is not None and now < found.end < now + SOON_S:
        # Tokens are short-lived on purpose: only one that has ended is a fault.
        return Finding("credentials", Level.OK, f"token ends in {_days(found.end - now)}")
    return end("credentials", found.kind, found.end, now, remedy)


def permissions(commands: Mapping[str, Mapping[str, str]]) -> tuple[Finding, ...]:
    """What each command may not do.

    Args:
        commands: Command -> what it lacks -> the flag that it is needed with, "" when always.
    """
    return tuple(_permission(command, lacking) for command, lacking in commands.items())


def _permission(command: str, lacking: Mapping[str, str]) -> Finding:
    check = f"permissions: {command}"
    if not lacking:
        return Finding(check, Level.OK, "all that it needs")
    said = "; ".join(f"{rule} ({flag})" if flag else rule for rule, flag in lacking.items())
    always = not all(lacking.values())
    remedy = f"docs/rbac.md has the role for `{command}`; whoever administers the cluster can grant it"
    return Finding(check, Level.FAILED if always else Level.WARNING, f"this user may not: {said}", remedy)


def _days(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
