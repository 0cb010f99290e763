import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.trainers.conftest import make_example
from trainers import evaluate, gate, lora, prompt
from trainers.answers import Answers
from trainers.evaluate import score, summary
from trainers.model import LanguageModel
from trainers.prompt import ABSENT


def test_abstention_is_right_only_where_the_answer_is_absent() -> None:
    here, gone = make_example(0), make_example(0, gold=False)
    assert score(here, "red").value == 1.0
    assert (score(here, ABSENT).value, score(here, ABSENT).absent) == (0.0, True)
    assert score(gone, ABSENT).value == 1.0
    assert score(gone, "red").value == 0.0


def test_summary_names_false_refusals() -> None:
    scores = [score(make_example(0, "fresh"), "red"), score(make_example(1, "fresh"), ABSENT)]
    scores.append(score(make_example(2, "abstain", gold=False), ABSENT))
    assert summary(scores) == {"abstain": 1.0, "fresh": 0.5, "exact": 0.5, "false_refusals": 0.5}


def test_evaluate_scores_every_item_in_order_and_the_general_text(tiny_path: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    items = [make_example(n, "fresh") for n in (2, 0, 1)]
    steps: list[int] = []
    scores = evaluate.answer(model, "m", items, Answers(tmp_path / "a.jsonl"), 4, steps.append)
    assert [s.example_id for s in scores] == [item.example_id for item in items]
    assert steps == [0, 3]
    general = evaluate.general(model)
    assert {s.set for s in general} == {"general"}
    assert len(general) == len(evaluate.GENERAL)
    assert all(s.value < 0 for s in general)


def test_what_a_model_answered_once_is_not_asked_again(tiny_path: Path, tmp_path: Path) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    items = [make_example(n, "fresh") for n in range(4)]
    kept = Answers(tmp_path / "a.jsonl")
    first = evaluate.answer(model, "m", items[:3], kept, 4)
    with (tmp_path / "a.jsonl").open("a") as cut:
        cut.write('{"model": "m", "exam')  # a kill

    def refuse(*_: object) -> list[str]:
        raise AssertionError("asked again")

    model.generate_pages = refuse  # type: ignore[method-assign]
    again = Answers(tmp_path / "a.jsonl")
    assert evaluate.answer(model, "m", items[:3], again, 4) == first
    with pytest.raises(AssertionError, match="asked again"):
        evaluate.answer(model, "another", items[:3], again, 4)
    again.keep("m", {items[3].example_id: "red"})
    assert Answers(tmp_path / "a.jsonl").get("m", items[3].example_id) == "red"


def test_episodes_are_told_apart() -> None:
    old, new = (replace(make_example(n, split), episode=e) for n, split, e in ((0, "anchor", 1), (1, "fresh", 2)))
    scores = [score(old, "red"), score(new, ABSENT), score(make_example(2, "noise"), "red")]
    assert evaluate.by_episode(scores) == {"1": 1.0, "2": 0.0}


def test_evaluation_ends_when_the_decision_is_certain(tiny_path: Path, tmp_path: Path) -> None:
    """The answers are kept ones, so no model is asked: the candidate's are right, the incumbent's are not."""
    model = LanguageModel.load(tiny_path, device="cpu")
    lora.prepare(model.model, lora.Settings())
    items = [make_example(number, "fresh") for number in range(60)]
    kept = Answers(tmp_path / "answers.jsonl")
    kept.keep("sha", {one.example_id: one.target for one in items})
    kept.keep(model.fingerprint, {one.example_id: "wrong" for one in items})
    told: list[tuple[int, int]] = []
    result = evaluate.compare(
        *(model, evaluate.arm(model, {"": lora.Attached(lora.CANDIDATE, "sha")}), evaluate.arm(model, {}), items, kept),
        max_new_tokens=4,
        seed=0,
        progress=lambda *at: told.append(at),
    )
    assert result.decision.outcome == "promote"
    sides = (result.candidate, result.incumbent)
    assert [len([one for one in scores if one.set == "fresh"]) for scores in sides] == [30, 30]
    assert told[-1] == (60, 120)


def test_answers_to_other_words_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(tmp_path / "a.jsonl").keep("m", {"one": "red"})
    assert Answers(tmp_path / "a.jsonl").get("m", "one") == "red"
    monkeypatch.setattr(prompt, "INSTRUCTION", "Answer.")
    assert Answers(tmp_path / "a.jsonl").get("m", "one") is None


@pytest.mark.parametrize(
    ("minutes", "asked", "outcome"), [(0.0, 16, "inconclusive"), (4.0, 40, "inconclusive"), (8.0, 80, "promote")]
)
def test_evaluation_ends_when_its_time_does(
    tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, asked: int, outcome: str
) -> None:
    """With what was asked by then, of both the same, by the levels of the last look; the decision says so. An answer
    takes three seconds here, and the candidate's are right."""
    model, now = LanguageModel.load(tiny_path, device="cpu"), [0.0]
    levels: list[tuple[float, float]] = []
    active: list[bool] = []
    items = {one.question: one for one in (make_example(number, "fresh") for number in range(100))}

    def generate(pages: list[list[Any]], tokens: int) -> list[str]:
        chats = [chat for one in pages for chat in one]
        now[0] += 3 * len(chats)
        asked = [items[chat[-1]["content"].split("Question: ")[1]] for chat in chats]
        return [one.target if active[-1] else "wrong" for one in asked]

    def look(pairs: list[gate.Pair], level: float, guard_level: float, **how: Any) -> gate.Decision:
        levels.append((level, guard_level))
        return gate.decide(pairs, level=level, guard_level=guard_level, **how)

    monkeypatch.setattr(model, "generate_pages", generate)
    monkeypatch.setattr(evaluate, "time", SimpleNamespace(monotonic=lambda: now[0]))
    uncertain = {"decide": look, "is_certain": lambda decision: False}
    monkeypatch.setattr(evaluate, "gate", SimpleNamespace(**{**vars(gate), **uncertain}))
    monkeypatch.setattr(lora, "activate", lambda model, shares: active.append(bool(shares)))
    candidate = evaluate.arm(model, {"": lora.Attached(lora.CANDIDATE, "sha")})
    result = evaluate.compare(
        *(model, candidate, evaluate.arm(model, {}), list(items.values()), Answers(tmp_path / "a.jsonl")),
        max_new_tokens=4,
        seed=0,
        until=60 * minutes,
    )
    sides = (result.candidate, result.incumbent)
    assert [len([one for one in scores if one.set == "fresh"]) for scores in sides] == [asked, asked]
    assert levels[-1] == gate.LOOKS[-1][1:]
    assert result.decision.outcome == outcome
    assert f"; only {asked} of 100 items fit into the time" in result.decision.reason
    assert ("raise refresh.minutes" in result.decision.reason) is (outcome != "promote")


def test_the_clock_is_read_between_pieces() -> None:
    """A pace that was seen is a guess: what else runs on the machine may change it."""
    pages = [[make_example(2 * number), make_example(2 * number + 1)] for number in range(200)]

    def items(answers: int, left: float) -> int:
        now = time.monotonic()
        return sum(map(len, evaluate._next(pages, now - 100.0, answers, now + left)))

    assert items(0, 1000.0) == items(0, -1.0) == evaluate.AT_ONCE, "some tell the pace"
    assert items(100, 1000.0) == evaluate.AT_A_TIME
    assert items(100, 41.0) == 20
    assert items(100, -1.0) == 0
    assert evaluate._next([pages[0] * 20], time.monotonic(), 0, math.inf) == [pages[0] * 20]
    assert evaluate._next([], time.monotonic(), 0, math.inf) == []


def test_each_look_has_its_share_of_every_set(tiny_path: Path) -> None:
    """Also of those with few pages, be it one, and of those that share theirs with others."""
    items = [make_example(number, "fresh") for number in range(40)]
    items += [make_example(number, "noise") for number in range(40, 46)] + [make_example(46, "anchor")]
    items += [replace(one, example_id=f"{one.example_id} absent", split="abstain") for one in items[:8]]
    pages = evaluate._mixed(items)
    assert sorted(one.example_id for page in pages for one in page) == sorted(one.example_id for one in items)
    first = Counter(one.split for page in pages[: len(pages) // 2] for one in page)
    assert first["fresh"] in (19, 20, 21)
    assert (first["noise"], first["abstain"], first["anchor"]) == (3, 4, 1)
    assert evaluate._mixed(items[::-1]) == [page[::-1] for page in pages]


def test_each_look_has_its_levels(tiny_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel.load(tiny_path, device="cpu")
    items = [make_example(number, "fresh") for number in range(12)]
    kept = Answers(tmp_path / "answers.jsonl")
    kept.keep(model.fingerprint, {one.example_id: "wrong" for one in items})
    looks: list[tuple[int, float, float]] = []

    def look(pairs: list[gate.Pair], level: float, guard_level: float, **how: Any) -> gate.Decision:
        looks.append((sum(one.set == "fresh" for one in pairs), level, guard_level))
        return gate.decide(pairs, level=level, guard_level=guard_level, **how)

    bare = evaluate.arm(model, {})
    monkeypatch.setattr(evaluate, "gate", SimpleNamespace(**{**vars(gate), "decide": look}))
    evaluate.compare(model, bare, bare, items, kept, max_new_tokens=4, seed=0)
    assert looks == [(round(share * 12), *levels) for share, *levels in gate.LOOKS]
