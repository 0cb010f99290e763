"""Citations that hold, and those that do not."""

from __future__ import annotations

import pytest

from daemon.citations import check, content_words
from store.types import Passage

OVEN = "The oven takes 40 minutes. Set it to 220 degrees before the bread goes in. Let it cool."
BOAT = "The boat needs two new ropes. They are sold in the harbour."


def passages(*texts: str) -> list[Passage]:
    return [Passage(f"chunk{number}", "document", text) for number, text in enumerate(texts, start=1)]


def test_a_citation_that_holds_is_kept_with_its_sentence() -> None:
    checked = check("Set it to 220 degrees [1].", passages(OVEN, BOAT))
    (citation,) = checked.citations
    assert (citation.number, citation.passage.chunk_id) == (1, "chunk1")
    assert citation.quote == "Set it to 220 degrees before the bread goes in."
    assert citation.support == 1.0
    assert checked.text.endswith("[1]")
    assert checked.remarks == ()


def test_the_passage_is_found_when_none_is_cited() -> None:
    checked = check("two new ropes", passages(OVEN, BOAT))
    assert [one.number for one in checked.citations] == [2]
    assert checked.text == "two new ropes [2]"


def test_a_wrong_citation_is_put_right_and_said() -> None:
    checked = check("two new ropes [1]", passages(OVEN, BOAT))
    assert [one.number for one in checked.citations] == [2]
    assert checked.remarks == ("[1] does not hold what the answer says",)


@pytest.mark.parametrize("number", [0, 3, 99])
def test_a_citation_of_nothing_is_said(number: int) -> None:
    checked = check(f"two new ropes [{number}]", passages(OVEN, BOAT))
    assert checked.remarks == (f"[{number}] names no passage",)
    assert checked.text == "two new ropes [2]"


def test_a_number_that_no_passage_holds_is_never_supported() -> None:
    assert check("Set it to 230 degrees before the bread goes in [1]", passages(OVEN)).citations == ()
    assert check("230", passages(OVEN)).citations == ()
    assert [one.number for one in check("220", passages(BOAT, OVEN)).citations] == [2]


def test_an_answer_that_was_made_up_has_no_citation() -> None:
    checked = check("The captain sails to Norway [1][2]", passages(OVEN, BOAT))
    assert checked.citations == ()
    assert len(checked.remarks) == 2
    assert "[" not in checked.text


def test_an_answer_without_content_is_not_supported_by_anything() -> None:
    for empty in ("", "Yes.", "It is.", "[1]"):
        assert check(empty, passages(OVEN)).citations == (), empty
    assert check("ropes", []).citations == ()


def test_each_passage_is_cited_once_in_the_order_of_the_answer() -> None:
    checked = check("ropes [2] and ropes [1] again [2]", passages(BOAT, "New ropes again."))
    assert [one.number for one in checked.citations] == [2]  # the other lacks "again"
    checked = check("new ropes [2] [1] [2]", passages(BOAT, "New ropes again."))
    assert [one.number for one in checked.citations] == [2, 1]
    assert checked.text == "new ropes [2][1]"


def test_content_words_are_lower_case_once_and_in_order() -> None:
    assert content_words("The Rope, the ROPE and 3.5 m of it_all: don't!") == ["rope", "3.5", "m", "all", "don't"]
    assert content_words("Größe Ελλάδα") == ["größe", "ελλάδα"]
