"""A new adapter on a share of the questions: who answers what, and when it is rolled back by itself."""

from __future__ import annotations

import itertools
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import canary, client, operations, render, service
from daemon.canary import LOOKS, Canary, answering, fisher, judge
from daemon.service import Service
from daemon.settings import Embedding, Generator, Refresh, Settings, Source
from daemon.settings import Retrieval as Retrieving
from store.errors import Corrupt
from store.memory import Memory
from store.types import Ended, Head, Retrieval
from store.warm import Warm
from tests.daemon.conftest import World
from tests.daemon.models import Model

AT = datetime(2026, 1, 1, tzinfo=UTC)
CANARY = Canary(2, 1, 0.3, AT + timedelta(days=1), 7, "before-adapter-0002")
HALF = replace(CANARY, share=0.5)
QUESTIONS = [f"What is number {number}?" for number in range(2000)]
FOLDED = ("what is  number 7?", "WHAT IS\nNUMBER 7?", " What is number 7? ")
ON_IT = [one for one in QUESTIONS if HALF.answers(one)]
OFF_IT = [one for one in QUESTIONS if not HALF.answers(one)]


def head(adapter: int | None) -> Head:
    return Head(9, AT, "g", 3, adapter, "ingest")


def answered(question: str, adapter: int | None, **changed: Any) -> Retrieval:
    """As `recording` keeps it."""
    extra = {"adapter": adapter, "grounded": True, "new_tokens": 5, "seconds": 1.0}
    kept = {name: changed.pop(name) for name in tuple(changed) if name in extra}
    mode = "base" if adapter is None else "adapter"
    return Retrieval(question, AT, question, mode, 8, (), "answer", extra=extra | kept, **changed)


def two_sides(ours: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[Retrieval]:
    """Answers of both sides in turn; distinct questions."""
    first = [answered(question, 2, **one) for question, one in zip(ON_IT, ours, strict=False)]
    second = [answered(question, 1, **one) for question, one in zip(OFF_IT, others, strict=False)]
    mixed = itertools.zip_longest(first, second)
    return [one for both in mixed for one in both if one is not None]


# --- who answers what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_the_share_is_about_what_was_asked_for_and_sticks(share: float) -> None:
    one = replace(CANARY, share=share)
    on_it = {question for question in QUESTIONS if one.answers(question)}
    assert abs(len(on_it) / len(QUESTIONS) - share) < 4 * (share * (1 - share) / len(QUESTIONS)) ** 0.5
    assert on_it == {question for question in QUESTIONS if one.answers(question)}
    assert {one.answers(same) for same in FOLDED} == {one.answers(QUESTIONS[7])}
    wider = replace(one, share=min(share + 0.05, 0.99))
    assert all(wider.answers(question) for question in on_it)
    later = replace(one, adapter=3)
    assert {question for question in QUESTIONS if later.answers(question)} != on_it, "not always the same ones suffer"


def test_the_others_are_left_to_what_served_before() -> None:
    for question in (*ON_IT[:20], *OFF_IT[:20]):
        mine = 2 if question in ON_IT else 1
        assert answering(head(2), HALF, question, AT) == mine
        assert answering(head(2), replace(HALF, before=None), question, AT) == (2 if mine == 2 else None)
        assert answering(head(2), HALF, question, HALF.until) == 2, "its time is over"
        assert answering(head(2), None, question, AT) == 2
        assert answering(head(1), HALF, question, AT) == 1, "a state that the canary is not of"
        assert answering(head(None), HALF, question, AT) is None


# --- the judgement ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 5), st.integers(1, 5), st.integers(0, 5), st.integers(1, 5))
def test_fishers_test_counts_all_ways(worse: int, answers: int, other_worse: int, others: int) -> None:
    worse, other_worse = min(worse, answers), min(other_worse, others)
    bad = [1] * (worse + other_worse) + [0] * (answers + others - worse - other_worse)
    ways = [sum(bad[one] for one in drawn) for drawn in itertools.combinations(range(len(bad)), answers)]
    assert fisher(worse, answers, other_worse, others) == pytest.approx(sum(n >= worse for n in ways) / len(ways))


def test_fishers_own_example() -> None:
    assert fisher(3, 4, 1, 4) == pytest.approx(17 / 70)


ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "feedback": st.sampled_from([None, "good", "bad"]),
        "grounded": st.sampled_from([None, True, False]),
        "seconds": st.floats(0, 1e6),
        "new_tokens": st.integers(0, 90),
    },
)


@given(
    few=st.lists(ANSWERS, max_size=LOOKS[0] - 1),
    many=st.lists(ANSWERS, max_size=80),
    swap=st.booleans(),
    again=st.integers(1, 30),
    seed=st.integers(0, 99),
)
def test_too_few_answers_never_abort(few: list[Any], many: list[Any], swap: bool, again: int, seed: int) -> None:
    """However bad they are, however often the same is asked, and whatever else was asked meanwhile."""
    log = two_sides(few, many) if swap else two_sides(many, few)
    few_asked = [one for one in log if HALF.answers(one.query) is swap] * again
    strangers = [answered(question, None, grounded=False, feedback="bad") for question in QUESTIONS[:200]]
    searches = [replace(one, mode="search", answer=None) for one in two_sides([{"feedback": "bad"}] * 200, [{}] * 200)]
    endpoints = [replace(one, mode="endpoint") for one in two_sides([{"grounded": False}] * 200, [{}] * 200)]
    log += few_asked + strangers + searches + endpoints
    random.Random(seed).shuffle(log)
    judgement = judge(HALF, log)
    assert (judgement.worse, judgement.measures) == (None, ())
    assert min(judgement.answered) <= len(few)


@given(st.integers(0, 150), st.sampled_from(["feedback", "grounded", "seconds"]))
def test_without_the_data_of_a_measure_it_says_nothing(count: int, missing: str) -> None:
    nothing = {"feedback": None, "grounded": None, "seconds": 0.0}
    bad = {"feedback": "bad", "grounded": False, "seconds": 9.0} | {missing: nothing[missing]}
    measures = {one.what for one in judge(HALF, two_sides([bad] * count, [bad] * count)).measures}
    of = {"feedback": canary.BAD, "grounded": canary.UNHELD, "seconds": canary.SLOW}
    assert measures == ({of[name] for name in of if name != missing} if count >= LOOKS[0] else set())


@pytest.mark.parametrize(
    ("worse", "what"),
    [
        ({"feedback": "bad"}, "15 of 20 answers bad by feedback, against 0 of 20 with adapter 1"),
        ({"grounded": False}, "15 of 20 answers held by no passage, against 0 of 20 with adapter 1"),
        ({"seconds": 3.0}, "15 of 20 answers slower by more than 1.5, against 0 of 20 with adapter 1"),
    ],
)
def test_what_is_clearly_worse_is_said(worse: dict[str, Any], what: str) -> None:
    fine = {"feedback": "good"}
    judgement = judge(HALF, two_sides([fine | worse] * 15 + [fine] * 5, [fine] * 20))
    assert judgement.worse is not None
    assert judgement.worse.startswith(what)
    assert "p = " in judgement.worse
    swapped = judge(HALF, two_sides([fine] * 20, [fine | worse] * 15 + [fine] * 5))
    assert (swapped.worse, swapped.answered) == (None, (20, 20)), "better is no reason"


def test_a_little_slower_is_not_slow() -> None:
    """1.4 times as long is within 1.5, however many say so; 1.7 times is not."""
    rng = random.Random(5)

    def log(factor: float) -> list[Retrieval]:
        sides = ([{"seconds": rng.lognormvariate(0.0, 0.2) * by} for _ in range(320)] for by in (factor, 1.0))
        return two_sides(*sides)

    assert judge(HALF, log(1.4)).worse is None
    assert "slower by more than 1.5" in (judge(HALF, log(1.7)).worse or "")


def test_what_is_no_worse_is_seldom_aborted_however_often_it_is_looked_at() -> None:
    """200 canaries that are as good as the others, each judged after every twenty answers until one look aborts it."""
    rng, aborted = random.Random(11), 0
    for _ in range(200):
        questions = rng.sample(QUESTIONS, 320)
        log = [
            answered(
                *(question, 2 if HALF.answers(question) else 1),
                feedback=rng.choice([None, "good", "bad"]),
                grounded=rng.random() < 0.7,
                seconds=rng.lognormvariate(0, 0.5),
            )
            for question in questions
        ]
        aborted += any(judge(HALF, log[:upto]).worse for upto in range(20, 321, 20))
    assert aborted / 200 <= canary.ERROR


# --- a memory with a canary ------------------------------------------------------------------------------------------


def promote(memory: Memory, documents: tuple[str, ...] = ()) -> int:
    run = memory.journal.begin_run(trigger="test", move=memory.head().move, incumbent=memory.head().adapter)
    number = memory.journal.add_adapter(run, base="base", sha256="0")
    folder = memory.adapter_folder(number)
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"documents": documents}))
    memory.promote(number, Ended(run, "promote", "better", number))
    return number


def put_model(runtime: Any, said: dict[str, str]) -> None:
    """A model that says, by the name of its adapter's folder ("base" without one), what the test wants."""
    model = Model(lambda _prompt: said[model.adapter.name if model.adapter else "base"])
    runtime._model = Warm(lambda: model)


NUMBERS = [f"Bread number {number} bakes for how many minutes?" for number in range(40)]
HOLDS, INVENTS = "40 minutes [1]", "90 minutes [1]"


@pytest.fixture
def bakery(world: World) -> World:
    """Adapter 1 serves, adapter 2 has just been promoted, and half of the questions are its."""
    world.write("bread.txt", "Bread bakes for 40 minutes at 220 degrees, whatever its number.")
    world.sync()
    world.reopen(
        refresh=Refresh(canary_share=0.5), generator=Generator(cache_answers=100), retrieval=Retrieving(min_score=0.0)
    )
    for _ in range(2):
        promote(world.runtime.memory)
    put_model(world.runtime, {"base": HOLDS, "0001": HOLDS, "0002": HOLDS})
    return world


def adapters(world: World, **how: Any) -> dict[str, int | None]:
    return {one: operations.ask(world.runtime, one, **how)["adapter"] for one in NUMBERS}


def under_way(world: World) -> Canary:
    found = canary.under_way(world.runtime.memory, world.settings)
    assert found is not None
    return found


def test_each_answer_names_the_adapter_that_gave_it(bakery: World) -> None:
    one = under_way(bakery)
    assert (one.adapter, one.before, one.undo) == (2, 1, "before-adapter-0002")
    shares = {question: 2 if one.answers(question) else 1 for question in NUMBERS}
    assert set(shares.values()) == {1, 2}
    assert adapters(bakery) == shares
    assert adapters(bakery) == shares, "the answers that are kept are each side's own"
    assert set(adapters(bakery, at="adapter-0002").values()) == {2}, "a state has its adapter"
    assert set(adapters(bakery, at="before-adapter-0002").values()) == {1}
    assert set(adapters(bakery, base=True).values()) == {None}
    found = canary.judged(bakery.runtime.memory, bakery.settings)
    assert found is not None
    assert found[1].answered == (list(shares.values()).count(2), list(shares.values()).count(1))


def test_a_canary_after_the_bare_model(world: World) -> None:
    world.write("bread.txt", "Bread bakes for 40 minutes.")
    world.sync()
    world.reopen(refresh=Refresh(canary_share=0.5))
    promote(world.runtime.memory)
    put_model(world.runtime, {"base": HOLDS, "0001": HOLDS})
    assert set(adapters(world).values()) == {None, 1}
    adapters(world, base=True)
    found = canary.judged(world.runtime.memory, world.settings)
    assert found is not None
    assert sum(found[1].answered) == len(NUMBERS), "who asked for the bare model gave no evidence against the adapter"


def test_kept_answers_are_of_one_adapter(bakery: World) -> None:
    put_model(bakery.runtime, {"base": HOLDS, "0001": HOLDS, "0002": "40 minutes at 220 degrees [1]"})
    said = {2: "40 minutes at 220 degrees [1]", 1: HOLDS}
    told = [operations.ask(bakery.runtime, one) for one in NUMBERS * 2]
    assert {(one["adapter"], one["answer"]) for one in told} == set(said.items())
    bakery.runtime.memory.roll_back("before-adapter-0002", only="model")
    told = [operations.ask(bakery.runtime, one) for one in NUMBERS]
    assert {(one["adapter"], one["answer"]) for one in told} == {(1, HOLDS)}


def test_it_ends_with_its_time_with_a_rollback_and_with_another_promotion(bakery: World) -> None:
    memory = bakery.runtime.memory
    memory.roll_back("adapter-0002", only="model")
    assert set(adapters(bakery).values()) == {2}, "a person chose it"
    memory.roll_back("before-adapter-0002", only="model")
    assert set(adapters(bakery).values()) == {1}
    assert promote(memory) == 3
    put_model(bakery.runtime, {"0001": HOLDS, "0003": HOLDS})
    assert set(adapters(bakery).values()) == {1, 3}
    bakery.pass_time(timedelta(hours=25))
    assert set(adapters(bakery).values()) == {3}


def test_without_the_setting_there_is_none(bakery: World) -> None:
    bakery.reopen(refresh=Refresh())
    put_model(bakery.runtime, {"0002": HOLDS})
    assert set(adapters(bakery).values()) == {2}
    assert canary.under_way(bakery.runtime.memory, bakery.settings) is None


def test_a_replay_asks_who_answered(bakery: World) -> None:
    memory, one = bakery.runtime.memory, under_way(bakery)
    on_it, off_it = (next(q for q in NUMBERS if one.answers(q) is side) for side in (True, False))
    asked = {question: operations.ask(bakery.runtime, question)["retrieval_id"] for question in (on_it, off_it)}
    bare = operations.ask(bakery.runtime, on_it, base=True)["retrieval_id"]

    def replayed(retrieval: str) -> tuple[int | None, int | None]:
        done = operations.replay(bakery.runtime, retrieval)
        assert done["adapter"] == {"from": done["then"]["adapter"], "to": done["now"]["adapter"]}
        assert done["recorded"]["adapter"] == done["then"]["adapter"]
        return done["then"]["adapter"], done["now"]["adapter"]

    assert [replayed(one) for one in (asked[on_it], asked[off_it], bare)] == [(2, 2), (1, 1), (None, None)]
    bakery.pass_time(timedelta(hours=25))
    assert [replayed(one) for one in (asked[on_it], asked[off_it], bare)] == [(2, 2), (1, 2), (None, None)]
    memory.roll_back("before-adapter-0002", only="model")
    assert [replayed(one) for one in (asked[on_it], asked[off_it])] == [(2, 1), (1, 1)]


def test_what_cannot_be_returned_to_is_said_and_the_head_stays(bakery: World) -> None:
    put_model(bakery.runtime, {"0001": HOLDS, "0002": INVENTS})
    adapters(bakery)
    folder = bakery.runtime.memory.adapter_folder(1)
    (folder / "card.json").unlink()
    folder.rmdir()
    with pytest.raises(Corrupt, match="adapter 1 is missing"):
        canary.abort_if_worse(bakery.runtime.memory, bakery.settings)
    assert bakery.runtime.memory.head().adapter == 2


# --- a daemon with a canary ------------------------------------------------------------------------------------------


class Daemon:
    """A service on a thread of its own, with a model that says what the test wants."""

    def __init__(self, root: Path) -> None:
        docs = root / "docs"
        docs.mkdir()
        (docs / "bread.txt").write_text("Bread bakes for 40 minutes at 220 degrees, whatever its number.")
        self.service = Service(
            Settings(
                state_dir=root / "state",
                sources=(Source(path=docs),),
                embedding=Embedding(model="hashing"),
                refresh=Refresh(canary_share=0.4, schedule=""),
                retrieval=Retrieving(min_score=0.0),
            )
        )
        self.memory = self.service.runtime.memory
        self._thread = threading.Thread(target=self.service.run)

    def start(self, said: dict[str, str]) -> None:
        put_model(self.service.runtime, said)
        self._thread.start()
        self.until(lambda: client.is_running(self.service.api.socket) and self.status()["documents"] == 1)
        self.service.runtime.write(lambda: [promote(self.memory) for _ in range(2)])

    def status(self) -> Any:
        return client.call(self.service.api.socket, "status")

    def ask(self, question: str) -> Any:
        return client.call(self.service.api.socket, "ask", {"question": question})

    def until(self, done: Any, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline
            assert self._thread.is_alive()
            time.sleep(0.02)

    def stop(self) -> None:
        self.service.stop()
        self._thread.join()


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(service, "CANARY_SECONDS", 0.1)
    monkeypatch.setattr(service, "notify_pause", lambda: 0.05)
    one = Daemon(tmp_path)
    yield one
    one.stop()


def test_a_worse_canary_is_aborted_by_the_daemon(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    daemon.start({"0001": HOLDS, "0002": INVENTS})
    shown = daemon.status()["canary"]
    assert (shown["adapter"], shown["before"], shown["undo"]) == (2, 1, "before-adapter-0002")
    assert "canary      adapter 2 answers 40% of the questions, adapter 1 the others" in render.status(daemon.status())
    asked, version = [], daemon.memory.head().version
    for number in range(200):
        asked.append(daemon.ask(f"Bread number {number} bakes for how many minutes?")["adapter"])
        if daemon.memory.head().adapter == 1:
            break
    daemon.until(lambda: daemon.memory.head().adapter == 1)
    assert {1, 2} == set(asked)
    assert min(asked.count(1), asked.count(2)) >= LOOKS[0]
    head = daemon.memory.head()
    assert head.version == version
    found = re.fullmatch(
        r"rollback to before-adapter-0002 \(model only\): (canary of adapter 2 aborted: .+)", head.reason
    )
    assert found is not None
    why = found[1]
    assert re.search(r"(\d+) of \1 answers held by no passage, against 0 of \d+ with adapter 1", why)
    status = daemon.status()
    assert (status["canary"], status["head"]["adapter"]) == (None, 1)
    assert why in status["last_refresh"]["reason"]
    assert why in render.status(status)
    assert why in client.call(daemon.service.api.socket, "refresh_list")["runs"][0]["reason"]
    daemon.until(lambda: why in caplog.text)
    assert {daemon.ask(question)["adapter"] for question in NUMBERS[:10]} == {1}


def test_a_good_canary_stays(daemon: Daemon) -> None:
    daemon.start({"0001": HOLDS, "0002": HOLDS})
    asked = [daemon.ask(f"Bread number {number} bakes for how many minutes?") for number in range(60)]
    for one in asked[:40]:
        client.call(daemon.service.api.socket, "feedback", {"retrieval": one["retrieval_id"], "verdict": "good"})
    daemon.until(lambda: len(daemon.status()["canary"]["measures"]) == 3)
    looked = daemon.service.scheduler.next_runs()["canary"]
    daemon.until(lambda: daemon.service.scheduler.next_runs()["canary"] > looked + timedelta(seconds=0.3))
    assert daemon.memory.head().adapter == 2
    answered = daemon.status()["canary"]["answered"]
    assert (answered["canary"] + answered["others"], answered["canary"]) == (
        60,
        [one["adapter"] for one in asked].count(2),
    )


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"canary_share": 0.0}, "greater than 0"),
        ({"canary_share": 2.0}, "less than or equal to 1"),
        ({"canary_share": float("nan")}, "finite"),
        ({"canary_hours": 0.0}, "greater than 0"),
        ({"canary_hours": 1e9}, "less than or equal to 8760"),
    ],
)
def test_settings_out_of_range_are_an_error(setting: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Refresh(**setting)
