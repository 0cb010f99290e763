"""Scores -> decision. Pure: no model, no files, no clock.

The win must hold twice, as each test alone is too kind to few documents: a paired bootstrap clustered by document
(Efron & Tibshirani 1993; Field & Welsh 2007 for clusters) and an exact one-sided sign test over documents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np

Outcome = Literal["promote", "reject", "inconclusive"]

FRESH = "fresh"
# How far a guard's mean may fall with 95% confidence: shares of 1, and nats per token for general text.
MARGINS: Mapping[str, float] = {"anchor": 0.05, "noise": 0.05, "abstain": 0.1, "general": 0.05}
CONFIDENCE = 0.95
RESAMPLES = 4000


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
    """One set's result. `lower` and `upper` bound the mean difference, one-sided 95% each; nan for an empty set."""

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
    min_items: int = 20,
    min_documents: int = 8,
) -> Decision:
    """Promote only a proven gain on fresh with every guard proven within its margin.

    Reject what is not better on fresh or fell past a margin; everything unproven is inconclusive. Equal scores never
    promote. An empty guard set cannot veto, and is named. Deterministic for a seed.
    """
    evidence = {name: _measure([pair for pair in pairs if pair.set == name], seed) for name in (FRESH, *margins)}
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
    if fresh.lower <= 0 or sign_p > 1 - CONFIDENCE:
        return decided("inconclusive", f"the gain may be chance: {gain}, sign test p = {sign_p:.3f}")
    unsure = [name for name, guard in guards.items() if guard.lower <= -margins[name]]
    if unsure:
        return decided("inconclusive", f"guard may have fallen past its margin: {_told(guards, unsure)}; {gain}")
    return decided("promote", f"{gain}, sign test p = {sign_p:.3f}, guards held")


def _told(guards: Mapping[str, Evidence], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {guards[name].difference:+.3f} (lower bound {guards[name].lower:+.3f})" for name in names)


def _measure(pairs: Sequence[Pair], seed: int) -> Evidence:
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
    lower, upper = np.quantile(means, [1 - CONFIDENCE, CONFIDENCE])
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
