"""Scores -> decision. Pure: no model, no files, no clock.

The win must hold twice, as each test alone is too kind to few documents: a paired bootstrap clustered by document
(Efron & Tibshirani 1993; Field & Welsh 2007 for clusters) and an exact one-sided sign test over documents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist
from typing import Literal

import numpy as np

Outcome = Literal["promote", "reject", "inconclusive"]

FRESH = "fresh"
# How far a guard's mean may fall, with confidence: shares of 1, and nats per token for general text. A few dozen items
# cannot show that no twentieth was lost: at such a margin most candidates that lost nothing would not serve.
MARGINS: Mapping[str, float] = {"anchor": 0.1, "noise": 0.1, "abstain": 0.1, "general": 0.05}
RESAMPLES = 4000
# The share of the items by each look, the chance of a wrong promotion that is spent there (0.05 in all, by the spending
# function of Lan and DeMets (1983) that is like O'Brien and Fleming's bounds), and the level of the guards there: one
# that in truth fell to its margin passes all looks together with a chance of 0.19. What lost nothing passes a guard of
# 48 items with a chance of 0.73; at the 5% of the win it would be 0.46.
LOOKS: Sequence[tuple[float, float, float]] = ((0.5, 0.0056, 0.02), (0.75, 0.018, 0.07), (1.0, 0.0264, 0.18))
SPREAD = 0.45  # standard deviation of an item's paired difference in F1, as seen in cycles of the default model
POWER = 0.8
LEAST_ITEMS, LEAST_DOCUMENTS = 20, 8  # fresh ones that a decision takes
_DEVIATES = NormalDist().inv_cdf(1 - LOOKS[-1][1]) + NormalDist().inv_cdf(POWER)  # from no gain to one that is seen


@dataclass(frozen=True, slots=True)
class Pair:
    """One evaluation item, scored for both models: higher is better. `set` is fresh or a guard's name."""

    example_id: str
    set: str
    document_id: str
    candidate: float
    incumbent: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """One set's result. `lower` and `upper` bound the mean difference, one-sided each; nan for an empty set."""

    items: int
    documents: int
    candidate: float
    incumbent: float
    difference: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Decision:
    outcome: Outcome
    reason: str
    evidence: Mapping[str, Evidence]
    sign_p: float  # sign test on fresh: the chance of as many better documents if nothing had changed


def decide(
    pairs: Sequence[Pair],
    seed: int = 0,
    margins: Mapping[str, float] = MARGINS,
    min_items: int = LEAST_ITEMS,
    min_documents: int = LEAST_DOCUMENTS,
    level: float = LOOKS[-1][1],
    guard_level: float = LOOKS[-1][2],
) -> Decision:
    """Promote only a proven gain on fresh with every guard proven within its margin.

    `level` is the chance that a test errs, `guard_level` the chance that what fell to a margin passes. Reject what is
    not better on fresh or fell past a margin; everything unproven is inconclusive. Equal scores never promote. An empty
    guard set cannot veto, and is named. Deterministic for a seed.
    """
    evidence = {
        name: _measure([pair for pair in pairs if pair.set == name], seed, lower, level)
        for name, lower in ((FRESH, level), *((guard, guard_level) for guard in margins))
    }
    fresh = evidence[FRESH]
    sign_p = _sign_test([pair for pair in pairs if pair.set == FRESH])
    empty = [name for name in margins if evidence[name].items == 0]
    note = f"; not guarded, as there were no items: {', '.join(empty)}" if empty else ""

    def decided(outcome: Outcome, reason: str) -> Decision:
        return Decision(outcome, reason + note, evidence, sign_p)

    if fresh.items < min_items or fresh.documents < min_documents:
        return decided(
            "inconclusive",
            f"{fresh.items} fresh items from {fresh.documents} documents are too few to tell "
            f"(at least {min_items} from {min_documents})",
        )
    gain = f"fresh {fresh.incumbent:.3f} -> {fresh.candidate:.3f}, lower bound of the gain {fresh.lower:+.3f}"
    if fresh.difference <= 0:
        return decided("reject", f"no better: {gain}")
    guards = {name: evidence[name] for name in margins if evidence[name].items}
    fell = [name for name, guard in guards.items() if guard.difference <= -margins[name]]
    if fell:
        return decided("reject", f"guard fell past its margin: {_told(guards, fell)}; {gain}")
    if fresh.lower <= 0 or sign_p > level:
        return decided("inconclusive", f"the gain may be chance: {gain}, sign test p = {sign_p:.3f}")
    unsure = [name for name, guard in guards.items() if guard.lower <= -margins[name]]
    if unsure:
        return decided("inconclusive", f"guard may have fallen past its margin: {_told(guards, unsure)}; {gain}")
    return decided("promote", f"{gain}, sign test p = {sign_p:.3f}, guards held")


def is_certain(decision: Decision, margins: Mapping[str, float] = MARGINS) -> bool:
    """Whether more items need not be looked at: a promotion, or a rejection where an upper bound says so too."""
    if decision.outcome != "reject":
        return decision.outcome == "promote"
    evidence = decision.evidence
    return evidence[FRESH].upper <= 0 or any(evidence[name].upper <= -margin for name, margin in margins.items())


def detectable(items: int) -> float:
    """The least gain in F1 that so many fresh items show with a chance of POWER (the normal approximation)."""
    return _DEVIATES * SPREAD / math.sqrt(items) if items else math.inf


def items_for(gain: float) -> int:
    """How many fresh items show such a gain with a chance of POWER."""
    return math.ceil((_DEVIATES * SPREAD / gain) ** 2)


def _told(guards: Mapping[str, Evidence], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {guards[name].difference:+.3f} (lower bound {guards[name].lower:+.3f})" for name in names)


def _measure(pairs: Sequence[Pair], seed: int, lower_level: float, upper_level: float) -> Evidence:
    if not pairs:
        nan = float("nan")
        return Evidence(0, 0, nan, nan, nan, nan, nan)
    candidate = float(np.mean([pair.candidate for pair in pairs]))
    incumbent = float(np.mean([pair.incumbent for pair in pairs]))
    by_document = _differences(pairs)
    totals = np.array([sum(differences) for differences in by_document])
    counts = np.array([len(differences) for differences in by_document])
    drawn = np.random.default_rng(seed).integers(0, len(totals), size=(RESAMPLES, len(totals)))
    means = totals[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    lower, upper = np.quantile(means, [lower_level, 1 - upper_level])
    difference = float(totals.sum() / counts.sum())
    return Evidence(len(pairs), len(totals), candidate, incumbent, difference, float(lower), float(upper))


def _sign_test(pairs: Sequence[Pair]) -> float:
    gains = [sum(differences) for differences in _differences(pairs)]
    better, moved = sum(gain > 0 for gain in gains), sum(gain != 0 for gain in gains)
    ways = sum(comb(moved, wins) for wins in range(better, moved + 1))
    return float(ways / 2**moved)


def _differences(pairs: Sequence[Pair]) -> list[list[float]]:
    """Candidate minus incumbent, grouped by document; documents sorted, so that the order of items does not matter."""
    groups: dict[str, list[float]] = {}
    for pair in sorted(pairs, key=lambda pair: (pair.document_id, pair.example_id)):
        groups.setdefault(pair.document_id, []).append(pair.candidate - pair.incumbent)
    return list(groups.values())
