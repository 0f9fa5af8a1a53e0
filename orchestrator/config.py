"""The settings file, `orchestrator.yaml`: what would otherwise be said with the same flags each time.

It says how things are done, never to which cluster: that is the kubeconfig's to say. A flag and an environment variable
win over it. `docs/settings.md` lists the keys; `settings.schema.json` beside this file is for editors.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from orchestrator.errors import BadUsage, OrchestratorError

if TYPE_CHECKING:
    from pathlib import Path

#: One of that size is something else.
MOST_BYTES = 1 << 20
_REMOTE = re.compile(r"[A-Za-z0-9_.-]+:/|[a-z0-9]+://")
_WHERE = re.compile(r"(?P<what>.*?)(?: - at `\$(?P<path>[^`]*)`)?$", re.DOTALL)
_PIECE = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]")


class Backup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """What `etcd backup` and the commands on its snapshots would be told with flags."""

    to: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    recipients: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    keep: str | msgspec.UnsetType = msgspec.UNSET
    compress: bool | msgspec.UnsetType = msgspec.UNSET
    recovery_set: bool | msgspec.UnsetType = msgspec.UNSET
    metrics_file: str | msgspec.UnsetType = msgspec.UNSET


class SettingsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """The whole file; each key stands for the flag of that name."""

    ssh: bool | msgspec.UnsetType = msgspec.UNSET
    owner: str | msgspec.UnsetType = msgspec.UNSET
    backup: Backup = Backup()


def settings(path: Path) -> dict[str, Any]:
    """What a settings file says, by the environment variable that says the same.

    Raises:
        BadUsage: It cannot be read, anybody may write to it, or a line of it is not understood; with file and line.
    """
    said = _parsed(path, _text(path))
    found = {
        "ORCHESTRATOR_SSH": said.ssh,
        "ORCHESTRATOR_OWNER": said.owner,
        "ORCHESTRATOR_BACKUP_TO": said.backup.to,
        "ORCHESTRATOR_BACKUP_RECIPIENTS": said.backup.recipients,
        "ORCHESTRATOR_BACKUP_KEEP": said.backup.keep,
        "ORCHESTRATOR_BACKUP_COMPRESS": said.backup.compress,
        "ORCHESTRATOR_BACKUP_RECOVERY_SET": said.backup.recovery_set,
        "ORCHESTRATOR_METRICS_FILE": said.backup.metrics_file,
    }
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in found.items()
        if value is not msgspec.UNSET
    }


def schema() -> dict[str, Any]:
    """The JSON Schema of the file."""
    found = msgspec.json.schema(SettingsFile)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "orchestrator.yaml", **found}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            content = file.read(MOST_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as err:
        raise BadUsage(f"{path} cannot be read: {err}", remedy="name a settings file that there is") from err
    if about.st_mode & stat.S_IWOTH:
        # Whoever writes there decides where a cluster's secrets are sent, and for whom they are encrypted.
        raise BadUsage(f"{path}: anybody may write to it", remedy=f"look what is in it; then chmod o-w {path}")
    if len(content) > MOST_BYTES:
        raise BadUsage(f"{path} is larger than {MOST_BYTES} bytes", remedy="name a settings file")
    return text


def _parsed(path: Path, text: str) -> SettingsFile:
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _no_key_twice(path, root, set())
        data = loader.construct_document(root) if root else None
    except yaml.MarkedYAMLError as err:
        mark = err.problem_mark or err.context_mark
        raise _wrong(path, mark.line if mark else 0, str(err.problem or err.context)) from err
    except RecursionError as err:
        raise _wrong(path, 0, "it is nested too deeply") from err
    except (yaml.YAMLError, ValueError) as err:
        raise _wrong(path, 0, " ".join(str(err).split())) from err
    try:
        said = msgspec.convert({} if data is None else data, SettingsFile)
    except msgspec.ValidationError as err:
        what, line = _located(root, str(err))
        raise _wrong(path, line, what) from err
    _sound(path, root, said)
    return said


def _sound(path: Path, root: yaml.Node | None, said: SettingsFile) -> None:
    """What would be refused later is refused here, where there is a line to name."""
    from orchestrator.backup import retention  # noqa: PLC0415  seldom needed

    backup = said.backup
    for at, each in enumerate(backup.to or ()):
        if not (_REMOTE.match(each) or each.startswith("/")):
            raise _wrong(path, _line(root, ["backup", "to", at]), f"`{each}` is not a whole path, nor a URL")
    for at, each in enumerate(backup.recipients or ()):
        if each.startswith("@") and not each.startswith("@/"):
            raise _wrong(path, _line(root, ["backup", "recipients", at]), f"`{each}` is not a whole path")
    if backup.metrics_file and not backup.metrics_file.startswith("/"):
        line = _line(root, ["backup", "metrics-file"])
        raise _wrong(path, line, f"`{backup.metrics_file}` is not a whole path")
    try:
        if backup.keep:
            retention.parse(backup.keep)
    except OrchestratorError as err:
        raise _wrong(path, _line(root, ["backup", "keep"]), str(err)) from err


def _no_key_twice(path: Path, node: yaml.Node | None, known: set[int]) -> None:
    """YAML's reader would take the last one, and say nothing."""
    if id(node) in known:
        return  # an alias leads there again
    known.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _no_key_twice(path, each, known)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name, line = str(key.value), key.start_mark.line
        if name in seen:
            raise _wrong(path, line, f"`{name}` stands in line {seen[name] + 1} already")
        seen[name] = line
        _no_key_twice(path, value, known)


def _located(root: yaml.Node | None, message: str) -> tuple[str, int]:
    """What is wrong, and in which line, counted from 0."""
    found = _WHERE.fullmatch(message)
    what, path = (found["what"], found["path"] or "") if found else (message, "")
    steps: list[str | int] = [name or int(at) for name, at in _PIECE.findall(path)]
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        return f"`{unknown[1]}` is no setting", _line(root, [*steps, unknown[1]])
    named = ".".join(str(each) for each in steps)
    return f"{named}: {what}" if named else what, _line(root, steps)


def _line(node: yaml.Node | None, steps: list[str | int]) -> int:
    line = 0
    for step in steps:
        if isinstance(node, yaml.MappingNode):
            key, node = next(((k, v) for k, v in node.value if k.value == step), (None, None))
            line = key.start_mark.line if key else line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line if node else line
    return line


def _wrong(path: Path, line: int, what: str) -> BadUsage:
    return BadUsage(f"{path}:{line + 1}: {what}", remedy="docs/settings.md lists what may stand there")
