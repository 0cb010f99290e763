"""A cycle's part for the questions' side of retrieval: its own candidate, its own gate, its own place in the head."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon import operations, query_tuning, render
from daemon.canary import under_way
from daemon.doctor import doctor
from daemon.exporting import export_adapter
from daemon.quarantine import Quarantine, warning
from daemon.query_tuning import EVIDENCE, tune
from daemon.replaying import replay
from daemon.settings import Refresh, Retrieval
from store import query_adapter
from store.errors import UsageError
from store.query_adapter import QueryAdapter
from store.types import Ended
from tests.daemon.conftest import World
from tests.daemon.test_learning import CREATURES, text
from trainers import retriever
from trainers.gate import Evidence
from trainers.retriever import Lesson, Trained, is_held_out

PLACES = ("river", "swamp", "forest", "harbour", "valley", "desert")


@pytest.fixture
def zoo(world: World) -> World:
    """Sixty documents, so that both sides have enough."""
    for place in PLACES:
        for name in CREATURES:
            world.write(f"{place}/{name}.md", text(f"{name}{place}", place))
    world.sync()
    return world


def cycle(world: World, stop: threading.Event | None = None) -> dict[str, Any]:
    """What becomes of a cycle that has this part alone."""
    memory = world.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=memory.head().move, incumbent=None)
    memory.journal.end_run(Ended(run, "reject", "no better"))
    folder = world.settings.state_dir / "refresh" / f"{run:04d}"
    tune(world.runtime, run, folder, lambda _: None, stop or threading.Event())
    return {"run": run, **memory.journal.run(run).metrics.get("query", {})}


def turning(lessons: list[Lesson], *_: Any, **__: Any) -> Trained:
    """Weights that no training gave."""
    rng = np.random.default_rng(1)
    down, up = (np.asarray(rng.normal(size=shape), np.float32) for shape in ((64, 4), (4, 64)))
    return Trained(QueryAdapter(down, up), 7, 2.0, 1.0)


def judged(by: tuple[float, float]) -> Any:
    """As `query_tuning.measured`, with these scores for the candidate and what serves."""

    def measured(
        runtime: Any, head: Any, asked: Any, adapter: int | None, stop: threading.Event
    ) -> list[tuple[float, float]]:
        is_candidate = adapter not in (None, head.query_adapter)
        return [(by[0] if is_candidate else by[1], 1.0) for _ in asked]

    return measured


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retriever, "train", turning)
    monkeypatch.setattr(query_tuning, "measured", judged((0.9, 0.6)))


def test_no_document_is_on_both_sides_be_it_as_a_near_miss(zoo: World) -> None:
    memory = zoo.runtime.memory
    quarantine = Quarantine(memory, ())
    learned, asked = query_tuning.questions(zoo.runtime, quarantine, memory.head())
    lessons, documents = query_tuning.lessons(zoo.runtime, quarantine, memory.head(), learned, threading.Event())
    assert len(lessons) == len(learned) > 20
    assert len(asked) > 20
    assert not any(map(is_held_out, documents))
    assert {one.right.document_id for one in learned} <= set(documents)
    assert all(is_held_out(one.right.document_id) for one in asked)
    assert not {one.right.text for one in learned} & {one.right.text for one in asked}
    assert any(one.near for one in lessons)


def test_what_is_in_quarantine_teaches_nothing_and_is_not_asked_for(zoo: World) -> None:
    zoo.reopen(refresh=Refresh(quarantine=("path:swamp/**",)))
    memory = zoo.runtime.memory
    quarantine = Quarantine(memory, zoo.settings.refresh.quarantine)
    learned, asked = query_tuning.questions(zoo.runtime, quarantine, memory.head())
    _, documents = query_tuning.lessons(zoo.runtime, quarantine, memory.head(), learned, threading.Event())
    swamp = {one for path, one in zoo.ids().items() if path.startswith("swamp/")}
    assert swamp
    assert not swamp & {*documents, *(one.right.document_id for one in asked)}


def test_a_judged_answer_teaches_before_what_is_made(zoo: World) -> None:
    memory = zoo.runtime.memory
    taught = next(path for path, one in zoo.ids().items() if not is_held_out(one))
    name, place = Path(taught).stem, Path(taught).parent.name
    asked = operations.search(zoo.runtime, f"{name}{place} described by whom", k=5)
    operations.feedback(zoo.runtime, asked["retrieval_id"], "bad", f"Doctor {f'{name}{place}'.title()}son of Uppsala")
    learned, _ = query_tuning.questions(zoo.runtime, Quarantine(memory, ()), memory.head())
    assert (learned[0].text, learned[0].right.document_id) == (f"{name}{place} described by whom", zoo.ids()[taught])
    assert learned[0].weight > 1


def test_a_cycle_of_its_own_trains_and_decides_for_real(zoo: World) -> None:
    before = zoo.runtime.memory.head()
    done = cycle(zoo)
    assert done["decision"] in ("promote", "reject", "inconclusive"), done
    assert done["learned"] > 20
    assert done["best_loss"] <= done["first_loss"]
    if done["decision"] != "promote":
        assert zoo.runtime.memory.head() == before
    again = cycle(zoo)
    kept = ("learned", "asked", "first_loss", "best_loss", "best_step", "ndcg")
    if done["decision"] != "promote":
        assert {name: again.get(name) for name in kept} == {name: done.get(name) for name in kept}


@pytest.mark.usefixtures("better")
def test_one_that_is_better_serves_and_is_named_everywhere(zoo: World) -> None:
    plain = operations.search(zoo.runtime, "heron river", k=9)
    done = cycle(zoo)
    memory, number = zoo.runtime.memory, done["adapter"]
    assert (done["decision"], memory.head().query_adapter) == ("promote", number)
    assert Evidence(**done["ndcg"]).lower == pytest.approx(0.3)
    assert len(json.loads((zoo.settings.state_dir / "refresh" / f"{done['run']:04d}" / EVIDENCE).read_text())) > 40
    found = operations.search(zoo.runtime, "heron river", k=9)
    assert (plain["query_adapter"], found["query_adapter"]) == (None, number)
    assert [hit["score"] for hit in found["results"]] != [hit["score"] for hit in plain["results"]]
    assert memory.journal.retrieval(found["retrieval_id"]).extra["query_adapter"] == number
    assert f"query adapter {number}" in render.search(found)
    shown = operations.refresh_show(zoo.runtime, done["run"])
    assert "decision promote" in render.refresh(shown | {"quarantined": []})
    assert "query: promote, fresh 0.600 -> 0.900" in render.refresh_list(operations.refresh_list(zoo.runtime))
    replayed = replay(zoo.runtime, plain["retrieval_id"])
    assert replayed["query_adapter"] == {"from": None, "to": number}
    assert replayed["same_hits"]
    assert {one["why"] for one in replayed["results"]} <= {"", "another query adapter"}
    difference = operations.snapshot_diff(zoo.runtime, f"before-adapter-{number:04d}")
    assert difference["query_adapter"] == {"from": None, "to": number}
    assert f"query       as it is -> adapter {number}" in render.difference(difference)
    card = json.loads((memory.adapter_folder(number) / query_adapter.CARD).read_text())
    assert card["documents"]
    assert not any(map(is_held_out, card["documents"]))
    assert doctor(zoo.runtime)["problems"] == []
    with pytest.raises(UsageError, match=f"adapter {number} moves the vectors of questions"):
        export_adapter(zoo.settings, number, zoo.settings.state_dir / "out", merged=False)


@pytest.mark.parametrize("by", [(0.6, 0.6), (0.5, 0.6)])
def test_one_that_is_equal_or_worse_never_serves(
    zoo: World, monkeypatch: pytest.MonkeyPatch, by: tuple[float, float]
) -> None:
    monkeypatch.setattr(retriever, "train", turning)
    monkeypatch.setattr(query_tuning, "measured", judged(by))
    before = zoo.runtime.memory.head()
    done = cycle(zoo)
    assert done["decision"] == "reject"
    assert zoo.runtime.memory.head() == before
    assert zoo.runtime.memory.snapshots() == []
    assert doctor(zoo.runtime)["problems"] == []


def test_too_little_is_inconclusive(world: World) -> None:
    world.write("only.md", text("heron", "river"))
    world.sync()
    done = cycle(world)
    assert done["decision"] == "inconclusive"
    assert "too few to learn from" in done["reason"]
    world.reopen(retrieval=Retrieval(mode="text"))
    assert "without vectors" in cycle(world)["reason"]


def test_one_that_is_stopped_decides_nothing(zoo: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, head = threading.Event(), zoo.runtime.memory.head()

    def stopping(lessons: list[Lesson], **_: Any) -> Trained:
        stop.set()
        return turning(lessons)

    monkeypatch.setattr(retriever, "train", stopping)
    for _ in range(2):  # in the middle, and before it began
        assert cycle(zoo, stop).keys() == {"run"}
    assert zoo.runtime.memory.head() == head
    assert doctor(zoo.runtime)["problems"] == []


@pytest.mark.usefixtures("better")
def test_the_next_goes_on_from_it_and_forgetting_retires_both(zoo: World) -> None:
    memory = zoo.runtime.memory
    first, second = cycle(zoo)["adapter"], cycle(zoo)["adapter"]
    cards = [json.loads((memory.adapter_folder(one) / query_adapter.CARD).read_text()) for one in (first, second)]
    assert [card["start"] for card in cards] == [None, first]
    paths = {document_id: path for path, document_id in zoo.ids().items()}
    gone = operations.forget(zoo.runtime, paths[cards[0]["documents"][0]])
    assert (gone["query_adapters"], gone["query_adapter"], gone["adapters"]) == ([first, second], None, [])
    assert f"query adapters {first}, {second}; none serves" in render.forget(gone)
    assert not memory.adapter_folder(second).exists()
    assert doctor(zoo.runtime)["problems"] == []


@pytest.mark.usefixtures("better")
def test_what_was_forgotten_meanwhile_does_not_serve(zoo: World, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = zoo.runtime.memory

    def forgetful(lessons: list[Lesson], **how: Any) -> Trained:
        memory.forget([lessons[0].document_id])
        return turning(lessons)

    with monkeypatch.context() as patched:
        patched.setattr(retriever, "train", forgetful)
        done = cycle(zoo)
    assert (done["decision"], memory.journal.adapters()) == ("failed", [])
    assert "forgotten meanwhile" in done["reason"]
    measured = judged((0.9, 0.6))

    def forgetting(runtime: Any, head: Any, asked: Any, adapter: int | None, stop: threading.Event) -> Any:
        if adapter is not None and adapter in memory.journal.adapters():
            card = json.loads((memory.adapter_folder(adapter) / query_adapter.CARD).read_text())
            memory.forget([card["documents"][0]])
        return measured(runtime, head, asked, adapter, stop)

    monkeypatch.setattr(query_tuning, "measured", forgetting)
    assert cycle(zoo)["decision"] == "failed"
    assert memory.head().query_adapter is None


@pytest.mark.usefixtures("better")
def test_what_learned_from_what_is_in_quarantine_now_is_named(zoo: World) -> None:
    number = cycle(zoo)["adapter"]
    zoo.reopen(refresh=Refresh(quarantine=("path:river/**",)))
    said = warning(zoo.runtime.memory, zoo.settings.refresh.quarantine)
    assert said is not None
    assert said.startswith(f"adapter {number} serves and learned from what is in quarantine now")
    assert f"`memex rollback before-adapter-{number:04d} --only model`" in said
    (run,) = operations.refresh_list(zoo.runtime)["runs"]
    assert run["quarantined"]


@pytest.mark.usefixtures("better")
def test_a_damaged_one_is_found_and_searched_without(zoo: World) -> None:
    number = cycle(zoo)["adapter"]
    (zoo.runtime.memory.adapter_folder(number) / query_adapter.WEIGHTS).write_bytes(b"damaged")
    zoo.reopen()
    (problem,) = doctor(zoo.runtime)["problems"]
    assert f"query adapter {number}" in problem
    assert "sha256 differs" in problem
    found = operations.search(zoo.runtime, "heron river")
    assert found["query_adapter"] is None
    assert f"searched without query adapter {number}" in found["remarks"][0]


@pytest.mark.usefixtures("better")
def test_a_canary_goes_on_beside_it(zoo: World) -> None:
    zoo.reopen(refresh=Refresh(canary_share=0.5))
    memory = zoo.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    generator = memory.journal.add_adapter(run, base="base", sha256="0")
    memory.promote(generator, Ended(run, "promote", "better", generator))
    began = under_way(memory, zoo.settings)
    assert began is not None
    number = cycle(zoo)["adapter"]
    assert under_way(memory, zoo.settings) == began
    memory.roll_back(began.undo, "model", "too slow")
    assert (memory.head().adapter, memory.head().query_adapter) == (None, number)
