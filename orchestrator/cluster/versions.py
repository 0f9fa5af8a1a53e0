"""Kubernetes versions, and how far apart the parts of a cluster may be. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

#: Minor versions that a kubelet may be older than its API server.
KUBELET_MAY_LAG = 3
#: Before this minor of the kubelet, one less.
LAG_SINCE_MINOR = 25

_VERSION = re.compile(r"^v?(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version, without what vendors add to it."""

    major: int
    minor: int
    patch: int


class Skew(StrEnum):
    """How a kubelet's version stands to its API server's."""

    WITHIN = "within"
    NEWER = "newer"
    TOO_OLD = "too-old"
    UNKNOWN = "unknown"


def parse(text: str) -> Version | None:
    """The version in a text such as `v1.36.3`, `1.37` or `v1.35.4-eks-1a2b`; None when there is none."""
    match = _VERSION.match(text)
    return Version(int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def kubelet_skew(kubelet: str, server: str) -> Skew:
    """Whether a kubelet of version `kubelet` may be used with an API server of version `server`.

    Source: Kubernetes "Version Skew Policy": not newer than the API server (minor versions count), up to three minor
    versions older, up to two where the kubelet is older than 1.25.
    """
    mine, theirs = parse(kubelet), parse(server)
    if mine is None or theirs is None:
        return Skew.UNKNOWN
    if (mine.major, mine.minor) > (theirs.major, theirs.minor):
        return Skew.NEWER
    allowed = KUBELET_MAY_LAG if mine.minor >= LAG_SINCE_MINOR else KUBELET_MAY_LAG - 1
    return Skew.TOO_OLD if mine.major < theirs.major or theirs.minor - mine.minor > allowed else Skew.WITHIN
