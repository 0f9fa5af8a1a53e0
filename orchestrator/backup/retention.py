"""Which snapshots stay and which go. Pure: it reads no clock and no store, and removes nothing itself."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from orchestrator.errors import BadUsage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from orchestrator.backup.records import Record

FLAG = "--keep"
#: The rules that count periods, and how a period is named; in UTC, weeks as ISO 8601 has them. A week at the turn of
#: the year belongs to one year only: 2027-01-01 is in 2026-W53.
PERIODS = (
    ("hourly", "%Y-%m-%d %H:00"),
    ("daily", "%Y-%m-%d"),
    ("weekly", "%G-W%V"),
    ("monthly", "%Y-%m"),
    ("yearly", "%Y"),
)
_COUNTS = ("last", *(word for word, _ in PERIODS))
_WORDS = (*_COUNTS, "min", "max-age", "max-size")
_AGES_S = {"s": 1, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_SIZES = {"B": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kMGT", start=1)
    for ending, base in (("B", 1000), ("iB", 1024))
}
_REMEDY = f"give rules and numbers, such as {FLAG}=last=7,daily=7,weekly=4,min=3,max-age=400d,max-size=50GB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How many snapshots of each cluster stay. Rules add up: what one of them keeps, stays.

    Of each of the newest periods that have a snapshot, the newest snapshot stays; periods without one are not
    counted, and one snapshot may serve several rules. Without any rule that counts, all stay until a limit is met.

    Attributes:
        last: The newest ones, whatever their time.
        hourly, daily, weekly, monthly, yearly: So many periods.
        minimum: So many good ones remain, whatever the limits say.
        max_age_s: What is older goes, though a rule keeps it.
        max_total_bytes: The oldest go while all that is stored of a cluster takes more.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    minimum: int = 1
    max_age_s: float | None = None
    max_total_bytes: int | None = None

    def __str__(self) -> str:
        """The setting that `parse` reads as this policy."""
        words = [f"{word}={self.count(word)}" for word in _COUNTS if self.count(word)]
        words.append(f"min={self.minimum}")
        if self.max_age_s is not None:
            words.append(f"max-age={_age(self.max_age_s)}")
        if self.max_total_bytes is not None:
            words.append(f"max-size={_size(self.max_total_bytes)}")
        return ",".join(words).replace(" ", "")

    def count(self, word: str) -> int:
        """How many the rule of that name keeps."""
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        return counts[_COUNTS.index(word)]


#: Without a setting. With a snapshot an hour fewer than 40 remain: each hour of a day, a day of each week of the month,
#: one for each month of half a year. Older ones are seldom restored: certificates and versions have moved on.
DEFAULT = Policy(last=7, hourly=24, daily=7, weekly=4, monthly=6, minimum=3)


@dataclass(frozen=True, slots=True)
class Judged:
    """A snapshot, and what becomes of it.

    Attributes:
        keep: It stays.
        rules: For people: what keeps it, the strongest first; or the one thing for which it goes.
    """

    record: Record
    keep: bool
    rules: tuple[str, ...]


def judge(
    records: Sequence[Record],
    policy: Policy,
    now: float,
    *,
    unfinished: Collection[str] = (),
    good: Callable[[Record], bool] | Collection[str],
) -> tuple[Judged, ...]:
    """A verdict on each record, newest first; the same for any order of `records`.

    Clusters are told apart by name and authority, and each has its own counts, limits, and last good one. Not by
    etcd's cluster id: a restore gives a new one, and what was taken before it is of the same cluster still. The
    authority survives a restore, and differs between two clusters of one name. (When it is renewed, what is older
    is judged as another cluster's: too much stays, never too little.)

    A record whose time is after `now` was dated by a clock that was wrong, or `now` is wrong. It stays, takes no
    place of any rule, and counts for no limit, until its time has come: so neither can it push out a good one, nor
    can a clock that went back remove what was taken before.

    A record that is not good, or whose last drill failed, stays as long as if it were good, but takes no place of a
    good one. Of a cluster that has no good one, nothing goes: perhaps they could only not be looked at.

    Args:
        records: All of one destination. Names are unique in it.
        policy: What stays.
        now: Seconds since the epoch.
        unfinished: Runs that have not ended well: the snapshots taken before their work stay.
        good: Whether the record's files are there and verified; or the names of the records of which that is true.

    Source: etcd `server/etcdserver/api/membership`: ids of members are hashed from their peer URLs and the cluster
    token, the cluster's id from those of its members; `etcdutl snapshot restore` is to be given a fresh token.
    """
    newest_first = sorted(records, key=_order, reverse=True)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in newest_first:
        groups.setdefault((record.cluster, record.authority), []).append(record)
    verdicts = {}
    for key, group in groups.items():
        sound = frozenset(r.name for r in group if (r.drill is None or r.drill.ok) and _says(good, r))
        for name, verdict in _verdicts(group, policy, now, unfinished, sound).items():
            verdicts[*key, name] = verdict
    return tuple(Judged(r, *verdicts[r.cluster, r.authority, r.name]) for r in newest_first)


def _order(record: Record) -> tuple[float, int, str]:
    """By time; of one instant, the one that saw more of etcd is the newer."""
    return record.at, record.revision, record.name


def _says(good: Callable[[Record], bool] | Collection[str], record: Record) -> bool:
    return good(record) if callable(good) else record.name in good


def _verdicts(
    group: Sequence[Record], policy: Policy, now: float, unfinished: Collection[str], sound: Collection[str]
) -> Mapping[str, tuple[bool, tuple[str, ...]]]:
    """For each name, whether it stays, and why; of one cluster's records, newest first."""
    due = [r for r in group if r.at <= now]
    due_sound = [r for r in due if r.name in sound]
    held = _held(group, due_sound, now, unfinished)
    chosen = _chosen(due_sound, policy)
    # Rules are asked twice, so that a record that is not good takes no good one's place, and keeps its own.
    chosen |= {name: rules for name, rules in _chosen(due, policy).items() if name not in sound}
    stays = {r.name: held.get(r.name, ()) + chosen.get(r.name, ()) for r in group}
    kept = [r for r in due if stays[r.name]]
    lacking = max(0, policy.minimum - sum(r.name in sound for r in kept))
    filled = {r.name for r in [r for r in due_sound if not stays[r.name]][:lacking]}
    spared, goes = _limited([r for r in due if stays[r.name] or r.name in filled], policy, now, held, sound)
    verdicts = {}
    for name, rules in stays.items():
        if name in spared or (name in filled and name not in goes):
            verdicts[name] = True, (*rules, f"minimum {policy.minimum}")
        elif name in goes or not rules:
            verdicts[name] = False, (goes.get(name, "no rule keeps it"),)
        else:
            verdicts[name] = True, rules
    return verdicts


def _held(
    group: Sequence[Record], due_sound: Sequence[Record], now: float, unfinished: Collection[str]
) -> dict[str, tuple[str, ...]]:
    """What stays whatever counts and limits say, by name, with the reasons."""
    last = due_sound[0] if due_sound else None
    # Where the clock went back, dates do not tell what is newest. Revisions do, within one life of etcd.
    lives = [r for r in due_sound if last and r.cluster_id == last.cluster_id]
    furthest = max(lives, key=lambda r: (r.revision, *_order(r)), default=None)
    held = {}
    for record in group:
        reasons = []
        if record.pin:
            reasons.append(f"pinned: {record.pin}")
        if record.reason in ("pre-upgrade", "pre-restore", "pre-replace") and record.run in unfinished:
            reasons.append(f"{record.reason}: run {record.run} has not ended well")
        if record.at > now:
            reasons.append(f"its time is {(record.at - now) / 3600:.3g} h ahead: a clock was wrong")
        elif last is None:
            reasons.append("its cluster has no good one: none goes")
        elif record.name == last.name:
            reasons.append("the last good one")
        elif furthest and record.name == furthest.name:
            reasons.append("the last good one by revision: a clock went back")
        if reasons:
            held[record.name] = tuple(reasons)
    return held


def _chosen(records: Sequence[Record], policy: Policy) -> dict[str, tuple[str, ...]]:
    """What the rules that count keep, by name, with the rules. Records come newest first."""
    if not any(policy.count(word) for word in _COUNTS):
        return {r.name: ("no rule counts: all stay",) for r in records}
    found: dict[str, tuple[str, ...]] = {}
    for number, record in enumerate(records[: policy.last], start=1):
        found[record.name] = (f"last {number} of {policy.last}",)
    # Years before 1970 are nonsense; some of them, which a broken record may hold, are beyond the calendar.
    times = [(r, datetime.fromtimestamp(max(r.at, 0.0), UTC)) for r in records]
    for word, form in PERIODS:
        limit = policy.count(word)
        newest: dict[str, Record] = {}
        for record, time in times if limit else ():
            newest.setdefault(time.strftime(form), record)
        for number, (period, record) in enumerate(list(newest.items())[:limit], start=1):
            found[record.name] = (*found.get(record.name, ()), f"{word} {number} of {limit}: {period}")
    return found


def _limited(
    kept: Sequence[Record], policy: Policy, now: float, held: Collection[str], sound: Collection[str]
) -> tuple[set[str], dict[str, str]]:
    """What the limits would remove but for the minimum, and what they do remove, with the reason.

    Both limits are asked in one pass, oldest first: all that are too old come before any that is not.
    """
    spare = sum(r.name in sound for r in kept) - policy.minimum
    total = sum(stored_bytes(r) for r in kept)
    spared: set[str] = set()
    goes: dict[str, str] = {}
    for record in reversed(kept):
        why = _limit(record, total, policy, now)
        if not why or record.name in held:
            continue
        if record.name in sound and spare <= 0:
            spared.add(record.name)
            continue
        goes[record.name] = why
        total -= stored_bytes(record)
        spare -= record.name in sound
    return spared, goes


def _limit(record: Record, total: int, policy: Policy, now: float) -> str:
    """Why a limit wants it gone; "" when none does."""
    if policy.max_age_s is not None and now - record.at > policy.max_age_s:
        return f"older than {_age(policy.max_age_s)}"
    if policy.max_total_bytes is not None and total > policy.max_total_bytes:
        return f"total size over {_size(policy.max_total_bytes)}"
    return ""


def stored_bytes(record: Record) -> int:
    """What its files take, as they are stored."""
    return sum(part.size_bytes for part in record.files)


# ---- settings -------------------------------------------------------------------------------------------------


def parse(text: str) -> Policy:
    """The policy of a setting such as `last=7,daily=7,min=3,max-age=400d,max-size=50GB`.

    Rules that are not named keep nothing. Ages are in s, h, d, w or y (365 d), sizes in B, kB, MB, GB, TB, KiB, ...;
    whole numbers only.

    Raises:
        BadUsage: A rule that is not known or named twice, or a number that cannot be meant.
    """
    given: dict[str, str] = {}
    for item in text.split(",") if text.strip() else ():
        word, equals, number = (part.strip() for part in item.partition("="))
        if word not in _WORDS:
            raise BadUsage(f"{FLAG}: there is no rule {word!r}", remedy=_near(word) + _REMEDY)
        if not equals or not number:
            raise BadUsage(f"{FLAG}: {word} has no number", remedy=_REMEDY)
        if word in given:
            raise BadUsage(f"{FLAG}: {word} is given twice, as {given[word]} and {number}", remedy="leave out one")
        given[word] = number
    if not given:
        raise BadUsage(f"{FLAG} is empty", remedy=_REMEDY)
    counts = {word: _whole(word, number) for word, number in given.items() if not word.startswith("max-")}
    named = [word for word in _COUNTS if word in counts]
    if named and not any(counts[word] for word in named):
        raise BadUsage(f"{FLAG}: {', '.join(named)} of 0 would keep nothing", remedy=_REMEDY)
    age, size = given.get("max-age"), given.get("max-size")
    return Policy(
        **{word: counts[word] for word in named},
        minimum=counts.get("min", 1),
        max_age_s=None if age is None else float(_measure("max-age", age, _AGES_S)),
        max_total_bytes=None if size is None else _measure("max-size", size, _SIZES),
    )


def _near(word: str) -> str:
    close = difflib.get_close_matches(word, _WORDS, n=1, cutoff=0.5)
    return f"did you mean {close[0]}? " if close else ""


def _whole(word: str, number: str) -> int:
    if re.fullmatch(r"-[0-9]+", number):
        raise BadUsage(f"{FLAG}: {word}={number} is negative", remedy=f"leave {word} out to keep none by it")
    if not re.fullmatch(r"[0-9]{1,9}", number):
        raise BadUsage(f"{FLAG}: {word}={number} is not a whole number of up to 9 digits", remedy=_REMEDY)
    return int(number)


def _measure(word: str, text: str, units: Mapping[str, int]) -> int:
    known = {unit.lower(): size for unit, size in units.items()}
    parts = re.fullmatch(r"(-?[0-9]+) ?([A-Za-z]+)", text)
    if parts is None or parts[2].lower() not in known:
        raise BadUsage(f"{FLAG}: {word}={text} is not a whole number with a unit", remedy=_units(word, units))
    found = _whole(word, parts[1]) * known[parts[2].lower()]
    if not found:
        raise BadUsage(f"{FLAG}: {word}={text} would leave no more than the minimum", remedy=f"leave {word} out")
    return found


def _units(word: str, units: Iterable[str]) -> str:
    example = "400d" if word == "max-age" else "50GB"
    return f"give {word} one of the units {', '.join(units)}, such as {word}={example}"


def _age(seconds: float) -> str:
    unit = next(unit for unit in ("d", "h", "s") if seconds % _AGES_S[unit] == 0 or unit == "s")
    return f"{seconds / _AGES_S[unit]:.15g} {unit}"


def _size(size_bytes: int) -> str:
    largest_first = sorted(_SIZES.items(), key=lambda unit: unit[1], reverse=True)
    return next(f"{size_bytes // size} {unit}" for unit, size in largest_first if size_bytes % size == 0)
