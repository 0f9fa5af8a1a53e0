"""Which cluster is meant: the kubeconfig's contexts, chosen as kubectl chooses them."""

from __future__ import annotations

import base64
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import ApiUnreachable, BadUsage

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Choice:
    """A context of a kubeconfig.

    Attributes:
        files: The kubeconfig files that exist, in order; empty inside a pod.
        context: Its name; "" inside a pod.
        cluster: The name of its cluster.
        user: The name of its user.
        renews: Its credentials are renewed by a plugin or, inside a pod, by the kubelet.
    """

    files: tuple[Path, ...]
    context: str
    cluster: str
    user: str
    renews: bool = False


def files(kubeconfig: str | None) -> tuple[Path, ...]:
    """The kubeconfig files in their order of precedence, existing or not.

    Source: kubectl: `--kubeconfig` is one file; else `$KUBECONFIG` is a list of paths; else `~/.kube/config`.
    """
    if kubeconfig:
        return (Path(kubeconfig).expanduser(),)
    paths = tuple(Path(p).expanduser() for p in os.environ.get("KUBECONFIG", "").split(os.pathsep) if p)
    return paths or (Path.home() / ".kube" / "config",)


def contexts(kubeconfig: str | None) -> tuple[str, ...]:
    """The names of all contexts, sorted. Empty when there is no kubeconfig.

    Raises:
        BadUsage: A file is not YAML of the right form.
    """
    return tuple(sorted(_merged(tuple(p for p in files(kubeconfig) if p.is_file()))[1]))


def choose(kubeconfig: str | None, context: str | None) -> Choice:
    """The context that is meant.

    Source: client-go `clientcmd`: of several files, the first that sets a value wins, `current-context` too. (The
    client library takes the last one for `current-context`, which would be another cluster than kubectl's.)

    Raises:
        BadUsage: There is no such file or context, or a file cannot be read.
        ApiUnreachable: There is no kubeconfig at all, and this is not a pod.
    """
    wanted = files(kubeconfig)
    found = tuple(p for p in wanted if p.is_file())
    if kubeconfig and not found:
        raise BadUsage(f"there is no kubeconfig {wanted[0]}", remedy="name an existing file with --kubeconfig")
    if not found:
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return Choice((), "", "in-cluster", "service account", renews=True)
        places = ", ".join(str(p) for p in wanted)
        raise ApiUnreachable(
            f"no cluster: there is no kubeconfig ({places})",
            remedy="set KUBECONFIG or pass --kubeconfig; `make demo` starts a cluster to try with",
        )
    current, known, plugins = _merged(found)
    name = context or current
    if not name:
        raise BadUsage("the kubeconfig has no current context", remedy=f"pass --context, one of: {_listed(known)}")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        places = ", ".join(str(p) for p in found)
        raise BadUsage(
            f"there is no context {name!r} in {places}", remedy=f"{hint}pass --context, one of: {_listed(known)}"
        )
    user = known[name].get("user") or ""
    return Choice(found, name, known[name].get("cluster") or "", user, plugins.get(user, False))


def reaching(files: Sequence[str], context: str) -> str:
    """How a person reaches the cluster of those files and that context; both are empty inside a pod."""
    if not files:
        return "do it where the run was started, in a pod of that cluster"
    where = f"pass --kubeconfig {files[0]}" if len(files) == 1 else f"set KUBECONFIG={':'.join(files)} and pass"
    return f"{where} --context {context}"


def cluster_of(choice: Choice) -> tuple[str, bytes]:
    """The server of a context's cluster, and the certificates that it is checked by, without any credentials.

    Returns:
        "" and nothing for what no file tells.
    """
    import yaml  # noqa: PLC0415  as below

    for path in choice.files:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        for entry in raw.get("clusters") or ():
            if entry.get("name") == choice.cluster:
                told = entry.get("cluster") or {}
                return str(told.get("server") or "").rstrip("/"), _certificates(path, told)
    return "", b""


def _certificates(path: Path, told: dict[str, Any]) -> bytes:
    """Source: kubeconfig (v1): data win over a file; a relative path is from the directory of the kubeconfig."""
    try:
        if data := told.get("certificate-authority-data"):
            return base64.b64decode(data)
        file = told.get("certificate-authority")
        return (path.parent / Path(file).expanduser()).read_bytes() if file else b""
    except (OSError, ValueError):
        return b""


def _listed(known: dict[str, dict[str, Any]]) -> str:
    return ", ".join(sorted(known)) or "none"


def _merged(paths: tuple[Path, ...]) -> tuple[str, dict[str, dict[str, Any]], dict[str, bool]]:
    """The current context, each context's fields by name, and for each user whether a plugin gives the credentials."""
    import yaml  # noqa: PLC0415  only commands that talk to a cluster pay for it

    current = ""
    known: dict[str, dict[str, Any]] = {}
    plugins: dict[str, bool] = {}
    for path in paths:
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            current = current or raw.get("current-context") or ""
            for entry in raw.get("contexts") or ():
                known.setdefault(str(entry["name"]), entry.get("context") or {})
            for entry in raw.get("users") or ():
                plugins.setdefault(str(entry["name"]), "exec" in (entry.get("user") or {}))
        except yaml.MarkedYAMLError as err:
            line = err.problem_mark.line + 1 if err.problem_mark else "unknown"
            raise _unreadable(path, f"it is not YAML: {err.problem} in line {line}") from err
        except OSError as err:
            raise _unreadable(path, err.strerror or str(err)) from err
        except (UnicodeDecodeError, yaml.YAMLError, AttributeError, KeyError, TypeError) as err:
            raise _unreadable(path, "it is not a kubeconfig") from err
    return current, known, plugins


def _unreadable(path: Path, why: str) -> BadUsage:
    return BadUsage(f"cannot read the kubeconfig {path}: {why}", remedy="repair the file, or name another")
