"""A new adapter on a share of the questions first: who answers which, and when it is proven worse.

What is compared are the first answers to distinct questions since the promotion, those of the adapter against those of
what served before, by three measures: bad feedback of those judged; answers that no passage holds of those that say
something (to say that the documents have no answer is neither); and seconds. Which side a question is on depends on its
text alone, so both sides see the same kind of questions, the same documents and the same machine.

Each measure is the share of a side's answers that are worse, tested by Fisher's exact test, one-sided (Fisher 1935, The
Design of Experiments). An answer is slow when its seconds, the canary's divided by `SLOWER`, are above the median of
both sides' (the median test: Mood 1950, Introduction to the Theory of Statistics): what is tested is whether the canary
takes more than `SLOWER` times as long. Looking again and again would find something by chance (Armitage, McPherson &
Rowe 1969), so a measure is tested only when its smaller side has `LOOKS` answers, and each of these tests has an equal
part of `ERROR` (Bonferroni): an adapter that is no worse is rolled back with a probability of `ERROR` at most, all
measures and looks together. Feedback that comes late may change a look's answers; the bound does not count that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import comb
from statistics import median
from typing import Any

from daemon.answer import Choose
from daemon.settings import Settings
from daemon.wording import model
from store.memory import Memory
from store.types import Head, Retrieval

ERROR = 0.05
LOOKS = (10, 20, 40, 80, 160, 320, 640)
SLOWER = 1.5
BAD, UNHELD, SLOW = "bad by feedback", "held by no passage", f"slower by more than {SLOWER:g}"
LEVEL = ERROR / (3 * len(LOOKS))

Valued = tuple[bool, float]  # of one answer: whether it is the canary's, and how bad it is


@dataclass(frozen=True, slots=True)
class Canary:
    """An adapter that answers `share` of the questions until `until`; the others are left to `before`."""

    adapter: int
    before: int | None  # None: the bare model
    share: float  # above 0, below 1
    until: datetime
    move: int  # of the head: the promotion
    undo: str  # the snapshot of the state before it

    def answers(self, question: str) -> bool:
        """Whether the question is one of its share: always the same for the same words."""
        key = f"{self.adapter}:{_words(question)}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest()) < self.share * 2**64


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure at its latest look: of so many answers so many were worse; `p` is the chance of that if the canary
    were no worse."""

    what: str
    canary: tuple[int, int]  # worse, answers
    others: tuple[int, int]
    p: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """`worse` says by what the canary is proven worse, None while it is not."""

    answered: tuple[int, int]  # distinct questions, the canary's and the others'
    measures: tuple[Measured, ...]  # those with enough answers
    worse: str | None


def answering(head: Head, canary: Canary | None, question: str, now: datetime) -> int | None:
    """The adapter that answers a question asked of the head; None is the bare model."""
    if canary is None or canary.adapter != head.adapter or now >= canary.until or canary.answers(question):
        return head.adapter
    return canary.before


def judge(canary: Canary, answers: Sequence[Retrieval]) -> Judgement:
    """Compare the canary's answers with the others, by the rule at the top; the order of `answers` is that of time.

    Answers that did not come from whom the canary's share says (of past states, or asked for the bare model) are left
    out. A measure with fewer answers than the first look on either side says nothing.
    """
    sides = [(canary.answers(one.query), one) for one in answers if one.answer is not None]
    ours = [
        (is_canary, one)
        for is_canary, one in sides
        if one.mode != "endpoint" and one.extra.get("adapter") == (canary.adapter if is_canary else canary.before)
    ]
    shares = {BAD: _look(_first(ours, _bad)), UNHELD: _look(_first(ours, _unheld)), SLOW: _slow(_first(ours, _seconds))}
    measures = tuple(_test(what, valued) for what, valued in shares.items() if valued)
    worse = [_told(one, canary) for one in measures if one.p <= LEVEL]
    asked = _first(ours, lambda _one: 0.0)
    count = sum(is_canary for is_canary, _ in asked)
    return Judgement((count, len(asked) - count), measures, "; ".join(worse) or None)


def fisher(worse: int, answers: int, other_worse: int, other_answers: int) -> float:
    """The chance that as many or more of the worse ones fall on the first side, if it makes no difference."""
    total, all_worse = answers + other_answers, worse + other_worse
    ways = sum(
        comb(all_worse, one) * comb(total - all_worse, answers - one)
        for one in range(worse, min(answers, all_worse) + 1)
    )
    return ways / comb(total, answers)


def under_way(memory: Memory, settings: Settings) -> Canary | None:
    """The canary that the last promotion began. A rollback of the model and another promotion end it, and so does the
    loss of the snapshot that would undo it."""
    wanted, now = settings.refresh, memory.clock()
    if wanted.canary_share == 1 or settings.generator.endpoint:
        return None
    lasts = timedelta(hours=wanted.canary_hours)
    promotion = memory.past.promotion(now - lasts)
    if promotion is None or promotion.before.head.adapter == promotion.head.adapter:
        return None
    head, before = promotion.head, promotion.before
    assert head.adapter is not None
    return Canary(head.adapter, before.head.adapter, wanted.canary_share, head.at + lasts, head.move, before.name)


def chosen_for(memory: Memory, settings: Settings, question: str) -> Choose:
    """Which adapter answers a question that is asked of the head now."""
    return lambda state: answering(state.head, under_way(memory, settings), question, memory.clock())


def judged(memory: Memory, settings: Settings) -> tuple[Canary, Judgement] | None:
    """The canary under way and how it does."""
    canary = under_way(memory, settings)
    return None if canary is None else (canary, judge(canary, memory.journal.answers_since(canary.move)))


def abort_if_worse(memory: Memory, settings: Settings) -> str | None:
    """Undo the promotion whose canary is proven worse, and say why; None when there is none. On the thread that writes.

    The index stays. The reason stands in the move's and in the run's.
    """
    found = judged(memory, settings)
    if found is None or found[1].worse is None:
        return None
    why = f"canary of adapter {found[0].adapter} aborted: {found[1].worse}"
    memory.roll_back(found[0].undo, "model", why)
    return why


def shown(canary: Canary, judgement: Judgement) -> dict[str, Any]:
    """As JSON, for `memex status`."""
    return {
        "adapter": canary.adapter,
        "before": canary.before,
        "share": canary.share,
        "until": canary.until.isoformat(),
        "undo": canary.undo,
        "answered": {"canary": judgement.answered[0], "others": judgement.answered[1]},
        "measures": [asdict(one) for one in judgement.measures],
    }


def _first(answers: Sequence[tuple[bool, Retrieval]], value: Callable[[Retrieval], float | None]) -> list[Valued]:
    """Of each question the first answer that has a value."""
    found: dict[str, Valued] = {}
    for is_canary, one in answers:
        if (known := value(one)) is not None:
            found.setdefault(_words(one.query), (is_canary, known))
    return list(found.values())


def _look(valued: Sequence[Valued]) -> list[Valued]:
    """The answers up to the latest look; none before the first."""
    counts, taken = [0, 0], 0
    for number, (is_canary, _) in enumerate(valued, start=1):
        smaller = min(counts)
        counts[is_canary] += 1
        if smaller < min(counts) in LOOKS:
            taken = number
    return list(valued[:taken])


def _slow(valued: Sequence[Valued]) -> list[Valued]:
    even = [(is_canary, seconds / SLOWER if is_canary else seconds) for is_canary, seconds in _look(valued)]
    middle = median(seconds for _, seconds in even) if even else 0.0
    return [(is_canary, float(seconds > middle)) for is_canary, seconds in even]


def _test(what: str, valued: Sequence[Valued]) -> Measured:
    canary, others = ([worse for is_canary, worse in valued if is_canary is side] for side in (True, False))
    counts = (int(sum(canary)), len(canary)), (int(sum(others)), len(others))
    return Measured(what, *counts, fisher(*counts[0], *counts[1]))


def _told(one: Measured, canary: Canary) -> str:
    return (
        f"{one.canary[0]} of {one.canary[1]} answers {one.what}, against {one.others[0]} of {one.others[1]} with "
        f"{model(canary.before)} (Fisher's exact test, p = {one.p:.2g})"
    )


def _words(question: str) -> str:
    return " ".join(question.split()).casefold()


def _bad(one: Retrieval) -> float | None:
    return None if one.feedback is None else float(one.feedback == "bad")


def _unheld(one: Retrieval) -> float | None:
    grounded = one.extra.get("grounded")
    return None if grounded is None else float(not grounded)


def _seconds(one: Retrieval) -> float | None:
    """None where the model said nothing, or what it said before was given again."""
    return one.extra["seconds"] if one.extra.get("new_tokens") and one.extra.get("seconds") else None
