"""A Kubernetes object as text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What kubectl may read as something else than text, where PyYAML would not: `y`, `1e3`, `0o17`.
#: Source: sigs.k8s.io/yaml reads YAML 1.1, and numbers as Go has them.
_DOUBTFUL = re.compile(r"[yYnN]|[-+.0-9].*", re.DOTALL)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such, and doubtful ones in quotes."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else "'" if _DOUBTFUL.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def as_yaml(manifest: Mapping[str, Any]) -> str:
    """YAML that kubectl reads as what it was."""
    text: str = yaml.dump(dict(manifest), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text


def as_json(manifest: Mapping[str, Any]) -> str:
    """JSON."""
    return json.dumps(manifest, indent=2) + "\n"
