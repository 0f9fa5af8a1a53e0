"""What a real etcd that was started on a snapshot has, held against what was read out of it. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.cluster import etcd
from orchestrator.cluster.frame import sections
from orchestrator.cluster.versions import Version, parse
from orchestrator.errors import BadUsage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.backup.snapshot import Snapshot
    from orchestrator.cluster.frame import Section


@dataclass(frozen=True, slots=True)
class Drilled:
    """What was seen.

    Attributes:
        where: The machine.
        etcd: The version that was started.
        restore_s, start_s: How long those took.
        counts: Prefix -> keys that the started etcd has; "all" for all of them.
        wrong: What was not as it should be; none when it went well.
        cluster: Of which the snapshot is; "" of a file without a record.
    """

    name: str
    where: str
    etcd: str
    restore_s: float
    start_s: float
    revision: int
    hash: int
    counts: Mapping[str, int]
    wrong: tuple[str, ...]
    cluster: str = ""

    @property
    def text(self) -> str:
        """In one line."""
        if self.wrong:
            return "; ".join(self.wrong)
        took_s = self.restore_s + self.start_s
        return (
            f"etcd {self.etcd} has revision {self.revision} and {self.counts.get('all', 0)} keys after {took_s:.1f} s"
        )


def judged(name: str, node: str, answer: str, expected: Snapshot) -> Drilled:
    """What a drill answered, held against what the snapshot has.

    Args:
        name: Of the snapshot.
        node: Where it was; "" for this machine.
        answer: Of its script, in the frame of `cluster.frame`.
        expected: What was read out of the snapshot.

    Raises:
        BadUsage: There was no etcd to start.
        FactUnreadable: etcd answered in a form that is not known.
    """
    found = sections(answer)
    where = node or "this machine"
    if "missing" in found:
        name = found["missing"][0].words[0]
        raise BadUsage(
            f"there is no {name} on {where}",
            remedy="on a control plane etcd's own are used: --node NAME; or name a directory with them: --programs DIR",
        )
    version = (re.search(r"etcd Version: (\S+)", _text(found, "version")) or ["", ""])[1]
    wrong = []
    if "failed" in found:
        section = found["failed"][0]
        wrong.append(f"{section.words[0]} failed: {' '.join(section.text.split())[-300:]}")
    elif "ended" not in found:
        wrong.append("it did not come to its end")
    status, hashed = _text(found, "status"), _text(found, "hash")
    revision = etcd.parse_status(status)[0].revision if status else 0
    counts = {s.words[0]: int(s.text) for s in found.get("count", ()) if s.text.strip().isdigit()}
    if not wrong:
        wrong += _differences(revision, counts, expected, version)
    times = {name: float(_text(found, name) or 0.0) for name in ("began", "restored", "started")}
    return Drilled(
        name=name,
        where=where,
        etcd=version,
        restore_s=max(0.0, times["restored"] - times["began"]),
        start_s=max(0.0, times["started"] - times["restored"]),
        revision=revision,
        hash=etcd.parse_hashes(hashed)[0].hash if hashed else 0,
        counts=counts,
        wrong=tuple(wrong),
    )


def _differences(revision: int, counts: Mapping[str, int], expected: Snapshot, version: str) -> list[str]:
    wrong = []
    if revision < expected.revision:
        wrong.append(f"etcd has revision {revision}, the snapshot {expected.revision}")
    wanted = {"all": expected.keys, **{f"{name}/": count for name, count in expected.prefixes.items()}}
    wrong += [f"{n}: {found} keys, {wanted[n]} in the snapshot" for n, found in counts.items() if found != wanted[n]]
    storage, program = parse(expected.storage or "3.5.0"), parse(version)
    if isinstance(storage, Version) and isinstance(program, Version) and program.line < storage.line:
        wrong.append(f"etcd {version} is older than the data, which are of {expected.storage}")
    if "all" not in counts:
        wrong.append("its keys could not be counted")
    return wrong


def _text(found: Mapping[str, list[Section]], name: str) -> str:
    return found[name][0].text.strip() if name in found else ""
