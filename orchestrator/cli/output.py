"""The result of a command on stdout."""

from __future__ import annotations

import sys
from typing import Any

from orchestrator.cli.options import Output

#: The versioned shape of every result; see `docs/output.md`.
API_VERSION = "kube-orchestrator.io/v1"


def show(output: Output, kind: str, body: dict[str, Any], table: str) -> None:
    """The result on stdout: `table` for people, or `body` as a document of `kind`."""
    if output is Output.TABLE:
        sys.stdout.write(table if table.endswith("\n") or not table else table + "\n")
        return
    document = {"apiVersion": API_VERSION, "kind": kind, **body}
    if output is Output.JSON:
        import json  # noqa: PLC0415

        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        import yaml  # noqa: PLC0415

        sys.stdout.write(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    sys.stdout.flush()
