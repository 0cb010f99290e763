"""Three ways to give passages to a model, with one that says what the test wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daemon.aggregation import read
from daemon.settings import Aggregate
from store.types import Passage
from tests.daemon.models import Model
from trainers.prompt import ABSENT

QUESTION = "How long does bread bake?"
PASSAGES = (
    Passage("boat", "1", "The boat needs two new ropes."),
    Passage("bread", "2", "Bread bakes for 40 minutes at 220 degrees."),
    Passage("cake", "3", "Cake bakes for 30 minutes."),
)


def told(
    how: Aggregate, model: Model, pieces: list[str] | None = None, stop: Callable[[], bool] = lambda: False
) -> Any:
    return read(how, model, QUESTION, PASSAGES, 16, None if pieces is None else pieces.append, stop)


def test_all_at_once() -> None:
    model, pieces = Model(lambda prompt: "40 minutes [2]"), []
    said = told("concatenate", model, pieces)
    assert (said.text, said.passages, said.prompt_tokens, said.new_tokens) == ("40 minutes [2]", PASSAGES, 50, 3)
    (prompt,) = model.prompts
    assert all(one.text in prompt for one in PASSAGES)
    assert pieces == ["40 minutes [2]"]


def test_one_by_one_keeps_the_answer_that_its_passage_holds_most_of() -> None:
    says = {"boat": "40 minutes of rope", "220": "for 40 minutes [1]", "Cake": "bakes 35 minutes"}
    model, pieces = Model(lambda prompt: next(said for word, said in says.items() if word in prompt)), []
    said = told("one_by_one", model, pieces)
    assert said.text == "for 40 minutes [1]"
    assert [one.chunk_id for one in said.passages] == ["bread"]
    assert (said.prompt_tokens, said.new_tokens) == (150, 11)
    assert [sum(one.text in prompt for one in PASSAGES) for prompt in model.prompts] == [1, 1, 1]
    assert pieces == ["for 40 minutes [1]"], "nobody sees the answers that are not kept"


@pytest.mark.parametrize("says", [ABSENT, "", "The captain sails to Norway"])
def test_one_by_one_without_an_answer_is_absent(says: str) -> None:
    said = told("one_by_one", Model(lambda prompt: says))
    assert (said.text, said.passages) == (ABSENT, ())


def test_summaries_stand_for_their_passages() -> None:
    def answer(prompt: str) -> str:
        if "helps to answer" not in prompt:
            return "40 minutes [1]"
        return "Not in the documents." if "boat" in prompt else f"SUMMARY {'bread' if '220' in prompt else 'cake'}"

    model, pieces = Model(answer), []
    said = told("summarise", model, pieces)
    *_, last = model.prompts
    assert "<passage 1>\nSUMMARY bread\n</passage 1>\n<passage 2>\nSUMMARY cake" in last
    assert "220 degrees" not in last
    assert "boat" not in last
    assert [one.text for one in said.passages] == [PASSAGES[1].text, PASSAGES[2].text], "citations name what was found"
    assert (said.text, said.prompt_tokens, said.new_tokens) == ("40 minutes [1]", 200, 11)
    assert pieces == ["40 minutes [1]"]
    assert told("summarise", Model(lambda prompt: ABSENT)).text == ABSENT


@pytest.mark.parametrize("how", ["one_by_one", "summarise"])
def test_it_stops_between_passages(how: Aggregate) -> None:
    model = Model(lambda prompt: "40 minutes")
    told(how, model, stop=lambda: len(model.prompts) == 1)
    assert len(model.prompts) <= 2
