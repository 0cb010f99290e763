"""Several questions on the same passages, and what misleads."""

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from store.types import Example, Hit
from tests.trainers.conftest import word_search
from trainers import questions
from trainers.examples import by_passages
from trainers.pages import DENIALS, ORDERS, Layout, Room, pages
from trainers.prompt import ABSENT
from trainers.sources import Source, find, words_of

PLAIN = Layout(passages=4, spread=False, adversarial=0.0, varied=False)
TAUGHT, ASKED = ((*DENIALS[learned], *ORDERS[learned]) for learned in (True, False))


@pytest.fixture
def room(corpus: list[Hit]) -> Room:
    return Room(corpus, frozenset(hit.document_id for hit in corpus))


@pytest.fixture
def sources(room: Room, corpus: list[Hit]) -> list[Source]:
    return find(room.pool, room.side, word_search(corpus), (), 40, words=30, k=8, seed=1)


def laid_out(sources: list[Source], room: Room, layout: Layout, seed: int = 0) -> list[Example]:
    return pages(sources, room, layout, "train", seed, 1)


def flat(text: str) -> str:
    return " ".join(text.lower().split())


def test_every_source_is_answerable_once_and_some_are_asked_again_without(sources: list[Source], room: Room) -> None:
    made = laid_out(sources, room, PLAIN)
    present = [one for one in made if one.gold is not None]
    assert sorted(one.question for one in present) == sorted(source.question for source in sources)
    absent = [one for one in made if one.gold is None]
    assert len(absent) == pytest.approx(len(present) * PLAIN.absent / (1 - PLAIN.absent), abs=2)
    assert {one.question for one in absent} <= {one.question for one in present}
    assert all(one.target == ABSENT for one in absent)


def test_a_page_has_several_questions_and_each_answer_in_one_passage(sources: list[Source], room: Room) -> None:
    groups = by_passages(laid_out(sources, room, PLAIN))
    assert len(groups) < len(sources) / 2
    for group in groups:
        assert len(group[0].passages) == len({passage.chunk_id for passage in group[0].passages}) == 4
        for one in group:
            wanted = flat(one.answers[0])
            holding = [at for at, passage in enumerate(one.passages) if wanted in flat(passage.text)]
            assert holding == ([] if one.gold is None else [one.gold])


def test_pages_are_narrow_and_wide_and_of_the_asked_size_on_average(sources: list[Source], room: Room) -> None:
    """So that neither one passage alone nor more of them than usual is news."""
    groups = [
        group
        for seed in range(8)
        for group in by_passages(laid_out(sources, room, replace(PLAIN, spread=True, absent=0.0), seed))
    ]
    sizes = [len(group[0].passages) for group in groups]
    assert set(sizes) == set(range(1, 8))
    assert sum(sizes) / len(sizes) == pytest.approx(4, abs=0.7)
    assert all(len(group) <= max(1, len(group[0].passages) - 1) for group in groups), "one passage answers nothing"


def test_near_misses_are_among_the_distractors(sources: list[Source], room: Room) -> None:
    near = 0
    for group in by_passages(laid_out(sources, room, PLAIN)):
        chunks = {passage.chunk_id for passage in group[0].passages}
        found = {hit.chunk_id for source in sources if source.question == group[0].question for hit in source.hits}
        near += len(chunks & found) > 1
    assert near > len(by_passages(laid_out(sources, room, PLAIN))) / 3


def test_what_misleads_holds_no_right_answer_and_is_never_the_gold(sources: list[Source], room: Room) -> None:
    made = [one for seed in range(4) for one in laid_out(sources, room, replace(PLAIN, adversarial=1.0), seed)]
    misled = [one for one in made if len(one.passages) == 5]
    assert len(misled) > len(made) / 2
    texts = {passage.text for one in misled for passage in one.passages}
    assert spoken(texts, TAUGHT) == len(TAUGHT)
    assert spoken(texts, ASKED) == 0
    for one in misled:
        if one.gold is not None:
            assert flat(one.target) in flat(one.passages[one.gold].text)
            assert sum(flat(one.target) in flat(passage.text) for passage in one.passages) == 1


def test_what_misleads_in_evaluation_has_words_that_are_not_trained_on(sources: list[Source], room: Room) -> None:
    layout = replace(PLAIN, adversarial=1.0)
    asked = [one for seed in range(4) for one in pages(sources, room, layout, "noise", seed, 1)]
    texts = {passage.text for one in asked for passage in one.passages}
    assert spoken(texts, ASKED) == len(ASKED)
    assert spoken(texts, TAUGHT) == 0


def spoken(texts: set[str], ways: Sequence[str]) -> int:
    """How many of the ways to mislead occur in the texts."""
    patterns = [re.sub(r"\\{\w+\\}", ".+", re.escape(way)) for way in ways]
    return sum(any(re.fullmatch(one, text, re.DOTALL) for text in texts) for one in patterns)


def test_what_misleads_is_in_words_of_the_document_that_it_names(sources: list[Source], room: Room) -> None:
    """Or forgetting that document, or learning nothing from it, would leave what it said."""
    made = laid_out(sources, room, replace(PLAIN, adversarial=1.0))
    own = {one: set[str]() for one in room.side}
    for hit in room.pool:
        own[hit.document_id] |= {*hit.headings, *words_of(f"{hit.text} {' '.join(hit.headings)}")}
    frame = words_of(" ".join(TAUGHT))
    for passage in {passage for one in made for passage in one.passages}:
        assert words_of(passage.text) - frame <= own[passage.document_id]


def test_of_several_right_answers_none_stands_elsewhere(sources: list[Source], room: Room) -> None:
    several = [replace(source, also=(sources[number - 1].answer,)) for number, source in enumerate(sources)]
    for one in laid_out(several, room, replace(PLAIN, adversarial=1.0)):
        others = [passage for at, passage in enumerate(one.passages) if at != one.gold]
        (asked,) = (source for source in several if source.question == one.question)
        right = (asked.answer, *asked.also)
        assert one.answers == ((ABSENT,) if one.gold is None else right)
        assert not any(flat(answer) in flat(passage.text) for passage in others for answer in right)


def test_where_there_are_few_questions_some_are_asked_without_their_passage_too(
    sources: list[Source], room: Room
) -> None:
    for count in range(4, 9):
        made = [one for seed in range(8) for one in laid_out(sources[:count], room, replace(PLAIN, spread=True), seed)]
        assert 0.2 < sum(one.gold is None for one in made) / len(made) < 0.6


def test_the_truth_is_not_denied(sources: list[Source], room: Room) -> None:
    """Where a user said it in other words than the passage, orders alone mislead."""
    said = [replace(source, answer=f"{source.answer}, or thereabouts") for source in sources]
    made = [one for seed in range(4) for one in laid_out(said, room, replace(PLAIN, adversarial=1.0), seed)]
    texts = {passage.text for one in made for passage in one.passages}
    assert spoken(texts, ORDERS[True]) == len(ORDERS[True])
    assert spoken(texts, DENIALS[True]) == 0


def test_layout_varies_and_loses_no_word(sources: list[Source], room: Room) -> None:
    plain, varied = (laid_out(sources, room, layout) for layout in (PLAIN, replace(PLAIN, varied=True)))
    texts = [passage.text for one in varied for passage in one.passages]
    assert any(text.startswith("- ") for text in texts)
    assert any("\n\n" in text for text in texts)
    assert any("\n" in text and not text.startswith("- ") for text in texts)
    for one in varied:
        if one.gold is not None:
            assert flat(one.target) in flat(one.passages[one.gold].text)
    assert len(plain) == len(varied)


def test_the_same_seed_gives_the_same_pages(sources: list[Source], room: Room) -> None:
    assert laid_out(sources, room, PLAIN, 3) == laid_out(sources, room, PLAIN, 3)
    assert laid_out(sources, room, PLAIN, 3) != laid_out(sources, room, PLAIN, 4)


def test_rows_and_entries_are_asked_about() -> None:
    text = "retries: 5 times\n\n| option | default |\n|---|---|\n| `rank` | 8 |\n\nThe rest is prose: it goes on.\n"
    made = {draft.question: draft for draft in questions.drafts(text, ())}
    assert made["What is the value of retries?"].answer == "5 times"
    assert made["What is the default of rank?"].answer == "8"
    parts = questions.sentences(text)
    assert all(draft.answer in parts[draft.sentence] for draft in made.values())
    assert {draft.kind for draft in made.values()} == {"entry"}


def test_the_questions_of_a_page_are_of_one_domain_where_there_are_enough(corpus: list[Hit]) -> None:
    """And passages say theirs; half of the corpus is of each, in turn."""
    hits = [replace(hit, domain=("it", "law")[int(hit.document_id[3:]) % 2]) for hit in corpus]
    domains = {hit.chunk_id: hit.domain for hit in hits}
    room = Room(hits, frozenset(hit.document_id for hit in hits))
    sources = find(room.pool, room.side, word_search(hits), (), 40, words=30, k=8, seed=1)
    alone = [replace(source, hits=()) for source in sources]  # retrieval finds nothing else: any others will do
    groups = by_passages(laid_out(alone, room, PLAIN))
    for passage in (passage for group in groups for passage in group[0].passages):
        assert passage.domain == domains[passage.chunk_id]
    asked = [{one.passages[one.gold].domain for one in group if one.gold is not None} for group in groups]
    assert len(asked) > 10
    assert [len(one) for one in asked[:-2]] == [1] * (len(asked) - 2), "but for what is left in the end"
