import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.gate import (
    LOOKS,
    MARGINS,
    POWER,
    SPREAD,
    Decision,
    Pair,
    decide,
    detectable,
    is_certain,
    items_for,
)


def pairs(name: str, candidate: list[float], incumbent: list[float], per_document: int = 1) -> list[Pair]:
    return [
        Pair(f"{name}{n}", name, f"d{n // per_document}", new, old)
        for n, (new, old) in enumerate(zip(candidate, incumbent, strict=True))
    ]


GUARDS = [pair for name in MARGINS for pair in pairs(name, [0.5] * 12, [0.5] * 12)]
WIN = pairs("fresh", [0.8] * 24, [0.2] * 24)

scores = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=20, max_size=40)


def test_a_clear_win_with_guards_held_is_promoted() -> None:
    decision = decide(WIN + GUARDS)
    assert decision.outcome == "promote"
    assert decision.evidence["fresh"].difference == pytest.approx(0.6)
    assert decision.evidence["fresh"].lower > 0


def test_too_few_items_or_documents_are_inconclusive() -> None:
    few = decide(WIN[:19] + GUARDS)
    assert (few.outcome, "19 fresh items" in few.reason) == ("inconclusive", True)
    one_document = decide(pairs("fresh", [0.8] * 24, [0.2] * 24, per_document=24) + GUARDS)
    assert one_document.outcome == "inconclusive"
    assert decide([]).outcome == "inconclusive"


@given(st.lists(st.floats(0, 1), min_size=20, max_size=40))
@settings(max_examples=50, deadline=None)
def test_equal_scores_never_promote(values: list[float]) -> None:
    assert decide(pairs("fresh", values, values) + GUARDS).outcome == "reject"


@given(scores)
@settings(max_examples=40, deadline=None)
def test_what_is_not_better_on_average_is_never_promoted(values: list[tuple[float, float]]) -> None:
    decision = decide(pairs("fresh", [new for new, _ in values], [old for _, old in values]) + GUARDS)
    if sum(new - old for new, old in values) <= 0:
        assert decision.outcome == "reject"
    if decision.outcome == "promote":
        assert decision.evidence["fresh"].lower > 0


def test_a_win_of_three_documents_among_many_is_chance() -> None:
    # The bootstrap alone would pass it: no resample misses all three often enough.
    decision = decide(pairs("fresh", [1.0] * 3 + [0.0] * 21, [0.0] * 24) + GUARDS)
    assert decision.outcome == "inconclusive"
    assert decision.sign_p == pytest.approx(1 / 8)


def test_chance_differences_are_rarely_promoted() -> None:
    rng = random.Random(1)
    promoted = 0
    for seed in range(200):
        new, old = ([float(rng.random() < 0.5) for _ in range(24)] for _ in range(2))
        promoted += decide(pairs("fresh", new, old) + GUARDS, seed=seed).outcome == "promote"
    assert promoted <= 10  # 5%


@pytest.mark.parametrize("guard", list(MARGINS))
def test_each_guard_vetoes(guard: str) -> None:
    others = [pair for pair in GUARDS if pair.set != guard]
    decision = decide(WIN + others + pairs(guard, [0.2] * 12, [0.5] * 12))
    assert decision.outcome == "reject"
    assert guard in decision.reason


def test_a_guard_that_may_have_fallen_is_inconclusive() -> None:
    others = [pair for pair in GUARDS if pair.set != "noise"]
    shaky = pairs("noise", [1.0, 0.0] * 6, [0.0, 1.0] * 6)
    assert decide(WIN + others + shaky).outcome == "inconclusive"


def test_a_guard_that_fell_to_its_margin_passes_as_rarely_as_stated_and_one_that_did_not_often_enough() -> None:
    def passed(fall: float, name: str, count: int = 28) -> float:
        rng, held = random.Random(6), 0
        others = [pair for pair in GUARDS if pair.set != name]
        for seed in range(200):
            moved = [rng.gauss(-fall, SPREAD) for _ in range(count)]
            held += decide(WIN + others + pairs(name, moved, [0.0] * count), seed=seed).outcome == "promote"
        return held / 200

    assert passed(MARGINS["noise"], "noise") == pytest.approx(LOOKS[-1][2], abs=0.08)
    assert passed(3 * MARGINS["noise"], "noise") < 0.06
    assert passed(-0.1, "noise") > 0.75  # it gained with the fresh ones
    assert passed(0.0, "abstain") > 0.5
    assert passed(0.0, "noise", 48) > 0.65


def test_what_gained_a_little_on_all_guards_serves_mostly() -> None:
    rng, names, held = random.Random(8), ("anchor", "noise", "abstain"), 0
    others = [pair for pair in GUARDS if pair.set not in names]
    for seed in range(100):
        guards = [pairs(name, [rng.gauss(0.05, SPREAD) for _ in range(48)], [0.0] * 48) for name in names]
        held += decide([*WIN, *others, *(pair for guard in guards for pair in guard)], seed=seed).outcome == "promote"
    assert held > 65


def test_an_empty_guard_is_named_and_does_not_veto() -> None:
    decision = decide(WIN + [pair for pair in GUARDS if pair.set != "anchor"])
    assert decision.outcome == "promote"
    assert "anchor" in decision.reason
    assert math.isnan(decision.evidence["anchor"].difference)


def test_items_of_one_document_count_as_one_piece_of_evidence() -> None:
    # 24 items, 8 documents: two documents carry the whole gain, so items by themselves would look certain.
    clustered = [1.0] * 6 + [0.0] * 18
    decision = decide(pairs("fresh", clustered, [0.0] * 24, per_document=3) + GUARDS)
    assert decision.outcome == "inconclusive"
    assert decide(pairs("fresh", clustered, [0.0] * 24) + GUARDS).outcome == "promote"


def test_the_decision_does_not_depend_on_the_order_of_items() -> None:
    items = WIN + GUARDS
    shuffled = random.Random(3).sample(items, len(items))
    assert decide(items, seed=5) == decide(shuffled, seed=5)


def looked_at(fresh: list[Pair], seed: int = 0) -> tuple[Decision, int]:
    """As a cycle does: the decision, and how many looks it took."""
    looks = 0
    for share, level, _ in LOOKS:
        decision = decide(fresh[: round(share * len(fresh))] + GUARDS, seed=seed, level=level)
        looks += 1
        if is_certain(decision):
            break
    return decision, looks


def test_the_looks_together_spend_the_error_of_one_test() -> None:
    assert sum(level for _, level, _ in LOOKS) == pytest.approx(0.05)
    assert [share for share, *_ in LOOKS][-1] == 1.0
    rng = random.Random(2)
    promoted = 0
    for seed in range(200):
        new, old = ([float(rng.random() < 0.5) for _ in range(48)] for _ in range(2))
        promoted += looked_at(pairs("fresh", new, old), seed)[0].outcome == "promote"
    assert promoted <= 10  # 5%


def test_a_guard_that_fell_to_its_margin_passes_all_looks_together_as_rarely_as_one() -> None:
    rng, held = random.Random(7), 0
    fell = MARGINS["noise"]
    for seed in range(300):
        moved = [rng.gauss(-fell, SPREAD) for _ in range(48)]
        others = [pair for pair in GUARDS if pair.set != "noise"]
        for share, level, guard_level in LOOKS:
            seen = pairs("noise", moved[: round(share * 48)], [0.0] * round(share * 48))
            if decide(WIN + others + seen, seed=seed, level=level, guard_level=guard_level).outcome == "promote":
                held += 1
                break
    assert 0.12 < held / 300 < 0.26


def test_what_is_certain_ends_early_and_what_is_not_does_not() -> None:
    win, loss = pairs("fresh", [0.8] * 48, [0.2] * 48), pairs("fresh", [0.2] * 48, [0.8] * 48)
    assert (looked_at(win)[0].outcome, looked_at(win)[1]) == ("promote", 1)
    assert (looked_at(loss)[0].outcome, looked_at(loss)[1]) == ("reject", 1)
    rng = random.Random(3)
    even = pairs("fresh", *([float(rng.random() < 0.5) for _ in range(48)] for _ in range(2)))
    assert looked_at(even)[1] == len(LOOKS), "no better so far is no proof of a loss"


def test_the_items_that_a_gain_takes() -> None:
    assert detectable(items_for(0.1)) <= 0.1 < detectable(items_for(0.1) - 1)
    assert detectable(0) == math.inf
    rng = random.Random(4)
    found = 0
    for seed in range(100):  # differences of this spread around a gain of 0.2
        gains = [rng.gauss(0.2, SPREAD) for _ in range(items_for(0.2))]
        found += decide(pairs("fresh", gains, [0.0] * len(gains)) + GUARDS, seed=seed).evidence["fresh"].lower > 0
    assert found >= 100 * (POWER - 0.12)
