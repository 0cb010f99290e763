"""From a question to an answer, with a language model that says what the test wants."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from daemon import operations
from daemon.answer import Answer, ask, bare
from daemon.recording import asked_with, record_answer
from daemon.settings import Generator, Retrieval, Rule, Source
from store.errors import NotFound, UsageError
from store.types import Ended, Filters
from store.warm import Warm
from tests.daemon.conftest import World
from tests.daemon.models import Model
from trainers.experts import ALONE, Shares
from trainers.prompt import ABSENT


@pytest.fixture
def kitchen(world: World) -> World:
    world.write("bread.txt", "Bread bakes for 40 minutes at 220 degrees.")
    world.write("boat.txt", "The boat needs two new ropes.")
    world.sync()
    return world


def put(world: World, model: Model, question: str, **arguments: Any) -> Answer:
    def load(adapter: Path | None, shares: Shares = ALONE) -> Model:
        model.use_adapter(adapter, shares)
        return model

    memory, settings = world.runtime.memory, world.settings
    asked = asked_with(arguments.get("k") or settings.retrieval.k, arguments.get("filters") or Filters())
    return record_answer(memory, settings, question, ask(memory, load, settings, question, **arguments), asked)


def test_an_answer_names_its_state_its_passage_and_is_kept(kitchen: World) -> None:
    model = Model("40 minutes [1]")
    answer = put(kitchen, model, "Bread bakes for how many minutes?")
    assert answer.text == "40 minutes [1]"
    (citation,) = answer.citations
    assert citation.passage.location == str(kitchen.docs / "bread.txt")
    assert citation.passage.chunk_id in {hit.chunk_id for hit in answer.found.hits}
    assert (answer.adapter, answer.prompt_tokens, answer.new_tokens, answer.grounded) == (None, 50, 3, True)
    kept = kitchen.runtime.memory.journal.retrieval(answer.retrieval_id)
    assert (kept.query, kept.answer, kept.mode) == ("Bread bakes for how many minutes?", "40 minutes [1]", "base")
    assert kept.move == kitchen.runtime.memory.head().move
    assert [hit["chunk_id"] for hit in kept.hits] == [hit.chunk_id for hit in answer.found.hits]
    assert list(kept.extra["citations"]) == [[1, citation.passage.chunk_id]]
    assert (kept.extra["grounded"], kept.extra["adapter"]) == (True, None)


def test_the_passages_come_before_the_question(kitchen: World) -> None:
    model = Model("40 minutes")
    put(kitchen, model, "Bread bakes for how many minutes?")
    (prompt,) = model.prompts
    assert prompt.index("<passage 1>\nBread bakes for 40 minutes") < prompt.index("how many minutes?")
    assert prompt.endswith("Question: Bread bakes for how many minutes?")


def test_nothing_near_is_not_in_the_documents_and_loads_no_model(
    kitchen: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(kitchen.runtime, "_model", Warm(refuse))
    told = operations.ask(kitchen.runtime, "zebra quagga")
    assert (told["answer"], told["citations"]) == (ABSENT, [])
    assert "retrieval.min_score" in told["remarks"][0]
    assert kitchen.runtime.memory.journal.retrieval(told["retrieval_id"]).answer == ABSENT


@pytest.mark.parametrize("said", ["Not in the documents.", "not in the documents, sorry"])
def test_what_the_model_does_not_find_is_not_in_the_documents(kitchen: World, said: str) -> None:
    answer = put(kitchen, Model(said), "Bread bakes at which altitude?")
    assert (answer.text, answer.citations, answer.grounded) == (ABSENT, (), None)
    assert answer.remarks


@pytest.mark.parametrize("said", ["90 minutes [1]", "", "Yes.", "The captain sails to Norway"])
def test_what_no_passage_holds_is_not_in_the_documents(kitchen: World, said: str) -> None:
    answer = put(kitchen, Model(said), "Bread bakes for how many minutes?")
    assert (answer.text, answer.citations, answer.grounded) == (ABSENT, (), False)
    assert repr(said) in answer.remarks[-1]


def test_the_past_answers_for_itself(kitchen: World) -> None:
    operations.snapshot_create(kitchen.runtime, "then")
    kitchen.write("bread.txt", "Bread bakes for 55 minutes at 200 degrees.")
    kitchen.sync()
    then = put(kitchen, Model("40 minutes"), "Bread bakes for how many minutes?", when="then")
    assert then.text == "40 minutes [1]"
    assert then.found.state.snapshot == "then"
    now = put(kitchen, Model("40 minutes"), "Bread bakes for how many minutes?")
    assert now.text == ABSENT


def test_the_adapter_of_the_state_serves_and_base_leaves_it_out(kitchen: World) -> None:
    memory = kitchen.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    number = memory.journal.add_adapter(run, base="base", sha256="0")
    folder = memory.adapter_folder(number)
    folder.mkdir(parents=True)
    (folder / "card.json").write_text("{}")
    operations.snapshot_create(kitchen.runtime, "bare")
    memory.promote(number, Ended(run, "promote", "test", number))
    model = Model("40 minutes")
    answer = put(kitchen, model, "Bread bakes for how many minutes?")
    assert (answer.adapter, model.adapter) == (number, folder)
    assert memory.journal.retrieval(answer.retrieval_id).mode == "adapter"
    for arguments in ({"choose": bare}, {"when": "bare"}):
        answer = put(kitchen, model, "Bread bakes for how many minutes?", **arguments)
        assert (answer.adapter, model.adapter) == (None, None)
    (folder / "card.json").unlink()
    folder.rmdir()
    with pytest.raises(NotFound, match="adapter 1 is missing"):
        put(kitchen, model, "Bread bakes for how many minutes?")


def test_the_domains_of_the_passages_choose_the_experts(kitchen: World) -> None:
    kitchen.write("oven.txt", "The oven of the bread has a door of glass.")
    rules = (Rule(pattern="bread*", domain="food"), Rule(pattern="boat*", domain="sea"))
    kitchen.reopen(sources=(Source(path=kitchen.docs, rules=rules),))
    kitchen.sync()
    memory = kitchen.runtime.memory
    run = memory.journal.begin_run(trigger="test", move=1, incumbent=None)
    number = memory.journal.add_adapter(run, base="base", sha256="0")
    folder = memory.adapter_folder(number)
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"experts": {"food": {}, "sea": {}}}))
    operations.snapshot_create(kitchen.runtime, "bare")
    memory.promote(number, Ended(run, "promote", "test", number))
    model = Model("40 minutes")

    def shares(question: str, **how: Any) -> tuple[dict[str, float], Any]:
        answer = put(kitchen, model, question, **how)
        kept = memory.journal.retrieval(answer.retrieval_id).extra.get("experts")
        assert (kept or ALONE) == model.shares, "what answered is kept with the answer"
        return dict(model.shares), kept

    food, sea = Filters(path="**/bread.txt"), Filters(path="**/boat.txt")
    assert shares("Bread bakes for how many minutes?", filters=food) == ({"food": 1.0},) * 2
    assert shares("What does the boat need?", filters=sea) == ({"sea": 1.0},) * 2
    assert shares("The oven of the bread", filters=Filters(path="**/oven.txt")) == (ALONE, None)
    mixed, _ = shares("bread bakes minutes oven door glass", filters=Filters(path="**/*e*.txt"))
    assert mixed == {"": 0.5, "food": 0.5}
    assert shares("Bread bakes for how many minutes?", filters=food, when="bare") == (ALONE, None)
    assert model.adapter is None


def test_filters_and_k_narrow_what_is_asked(kitchen: World) -> None:
    model = Model("40 minutes")
    assert len(put(kitchen, model, "Bread bakes for how many minutes?", k=1).found.hits) == 1
    answer = put(kitchen, model, "Bread bakes for how many minutes?", filters=Filters(domain="boats"))
    assert (answer.text, answer.found.hits) == (ABSENT, ())
    with pytest.raises(UsageError, match="at least 1"):
        put(kitchen, model, "Bread?", k=0)


def test_the_operation_gives_the_answer_as_json(kitchen: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kitchen.runtime, "_model", Warm(lambda: Model("40 minutes [1]")))
    told = operations.ask(kitchen.runtime, "Bread bakes for how many minutes?")
    assert told["answer"] == "40 minutes [1]"
    assert told["version"] == kitchen.runtime.memory.head().version
    (citation,) = told["citations"]
    assert citation["chunk_id"] == told["results"][0]["chunk_id"]
    assert citation["quote"] == "Bread bakes for 40 minutes at 220 degrees."


def test_the_best_passage_may_stand_next_to_the_question(kitchen: World) -> None:
    kitchen.write("toast.txt", "Bread for toast bakes for 3 minutes more.")
    kitchen.sync()
    question = "Bread bakes for how many minutes at 220 degrees?"
    prompts = []
    for order in ("best_first", "best_last"):
        kitchen.reopen(retrieval=Retrieval(order=order, min_score=0))
        model = Model("40 minutes")
        answer = put(kitchen, model, question)
        assert answer.found.hits[0].path.endswith("bread.txt")
        prompts += model.prompts
    first, last = prompts
    assert first.index("220 degrees.") < first.index("toast")
    assert last.index("220 degrees.") > last.index("toast")


def test_asked_one_by_one_the_best_passage_wins_whatever_the_order(kitchen: World) -> None:
    kitchen.write("cake.txt", "Cake takes 40 minutes as well.")
    kitchen.sync()
    for order in ("best_first", "best_last"):
        kitchen.reopen(retrieval=Retrieval(order=order, aggregate="one_by_one", min_score=-1))
        answer = put(kitchen, Model("40 minutes"), "Bread bakes for how many minutes at 220 degrees?")
        (citation,) = answer.citations
        assert citation.passage.document_id == answer.found.hits[0].document_id


def test_passages_leave_room_for_the_question_and_the_answer(kitchen: World) -> None:
    kitchen.reopen(retrieval=Retrieval(min_score=-1))
    model = Model("40 minutes")
    put(kitchen, model, "Bread boat bakes for how many minutes?")
    assert "<passage 2>" in model.prompts[-1]
    model.window = kitchen.settings.generator.max_new_tokens + 100
    put(kitchen, model, "Bread boat bakes for how many minutes?")
    assert "<passage 1>" in model.prompts[-1]
    assert "<passage 2>" not in model.prompts[-1]


def test_answers_are_kept_only_if_asked_and_never_stale(kitchen: World) -> None:
    question = "Bread bakes for how many minutes?"

    def told(says: str) -> dict[str, Any]:
        kitchen.runtime._model = Warm(lambda: Model(says))  # type: ignore[assignment,return-value]
        return operations.ask(kitchen.runtime, question)

    assert told("40 minutes [1]")["answer"] == "40 minutes [1]"
    assert told("220 degrees [1]")["answer"] == "220 degrees [1]"
    kitchen.reopen(generator=Generator(cache_answers=8))
    first, again = told("40 minutes [1]"), told("220 degrees [1]")
    assert again["answer"] == "40 minutes [1]"
    assert again["retrieval_id"] != first["retrieval_id"]
    assert kitchen.runtime.memory.journal.retrieval(again["retrieval_id"]).answer == "40 minutes [1]"
    pieces: list[str] = []
    operations.ask(kitchen.runtime, question, on_token=pieces.append)
    assert pieces == ["40 minutes [1]"]
    operations.snapshot_create(kitchen.runtime, "named")
    assert operations.ask(kitchen.runtime, question, at="named")["snapshot"] == "named"
    assert operations.ask(kitchen.runtime, question)["snapshot"] is None, "what is told is the state that was asked"
    assert operations.ask(kitchen.runtime, question, k=1)["answer"] != ""
    kitchen.write("bread.txt", "Bread bakes for 55 minutes at 200 degrees.")
    kitchen.sync()
    assert told("55 minutes [1]")["answer"] == "55 minutes [1]"
    operations.forget(kitchen.runtime, "bread.txt")
    assert told("55 minutes [1]")["answer"] == ABSENT


def test_what_is_asked_may_be_narrowed_by_path_and_time(kitchen: World) -> None:
    kitchen.write("old/bread.md", "Bread of old bakes for 90 minutes.")
    os.utime(kitchen.docs / "old/bread.md", (0, 0))
    kitchen.sync()

    def found(**narrowed: str) -> set[str]:
        told = operations.search(kitchen.runtime, "bread", **narrowed)
        kept = kitchen.runtime.memory.journal.retrieval(told["retrieval_id"])
        assert operations.replay(kitchen.runtime, told["retrieval_id"])["same_hits"], kept
        return {Path(one["path"]).name for one in told["results"]}

    assert found() == {"bread.txt", "boat.txt", "bread.md"}
    assert found(path="*.md") == {"bread.md"}
    assert found(path="old/*") == {"bread.md"}
    assert found(modified_after="2 days ago") == {"bread.txt", "boat.txt"}
    assert found(modified_before="2001-01-01") == {"bread.md"}
    assert found(ingested_before="1 hour ago") == set()
    assert found(ingested_after="1 hour ago", path="b*.txt") == {"bread.txt", "boat.txt"}
    with pytest.raises(UsageError, match="'soon' is no time"):
        found(modified_after="soon")
