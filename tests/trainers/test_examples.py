from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.types import Example, Hit
from tests.trainers.conftest import make_example, make_hit, word_search
from trainers import examples, questions
from trainers.examples import Recipe, build, hold_out, is_kept_back
from trainers.pages import Layout
from trainers.prompt import ABSENT
from trainers.sources import Answered, excerpt, mixed_drafts

LAYOUT = Layout(passages=3, spread=False, adversarial=0.0, varied=False)
RECIPE = Recipe(train=40, fresh=12, noise=6, abstain=4, anchor=5, layout=LAYOUT)


def shown(example: Example) -> set[str]:
    return {example.document_id, *(passage.document_id for passage in example.passages)}


def test_the_three_kinds_of_question_have_their_answer_in_the_sentence() -> None:
    text = "The frobnicator is a device that turns left screws. It needs at least 42 seconds to warm up in the cold."
    found = {draft.kind: draft for draft in questions.drafts(text, ("Tools", "Frobnicator"))}
    assert found["definition"].question == "What is the frobnicator?"
    assert found["definition"].answer == "a device that turns left screws"
    assert found["cloze"].answer == "42"
    assert questions.BLANK in found["cloze"].question
    assert "42" not in found["cloze"].question
    assert "Frobnicator" in found["heading"].question
    parts = questions.sentences(text)
    assert all(draft.answer in parts[draft.sentence] for draft in found.values())


def test_a_manual_page_name_line_is_a_definition() -> None:
    (draft,) = questions.drafts("ls - list directory contents", ())
    assert (draft.question, draft.answer) == ("What is ls?", "list directory contents")


def test_what_a_thing_does_is_asked_in_plain_words() -> None:
    (draft,) = questions.drafts("The atexit module defines functions to register cleanup functions.", ())
    assert draft.question == "What does the atexit module do?"
    assert draft.answer == "defines functions to register cleanup functions"


def test_a_blank_reaches_to_the_end_of_its_clause() -> None:
    (draft,) = questions.drafts("After every failure it waits for 31 seconds at most, then it tries again.", ())
    assert draft.answer == "31 seconds at most"
    assert draft.question.endswith("waits for ____, then it tries again.")


def test_code_and_pronouns_give_no_questions() -> None:
    assert not list(questions.drafts("x = {1: foo(2), 3: bar[4]} ; y += x[0] | z ** 17 % q == 9", ()))
    assert not list(questions.drafts("It is a thing that nobody can name.", ()))


@given(st.text(), st.integers(5, 60))
def test_a_window_holds_its_sentence_and_keeps_to_its_size(text: str, words: int) -> None:
    parts = questions.sentences(text)
    for at in range(len(parts)):
        shown = questions.window(parts, at, words)
        assert len(shown.split()) <= max(words, min(2 * words, len(parts[at].split())))
        if len(parts[at].split()) <= words:
            assert " ".join(parts[at].split()) in shown


def test_build_fills_every_set_and_leaks_no_document(corpus: list[Hit]) -> None:
    built = build(corpus, word_search(corpus), recipe=RECIPE, seed=3)
    sizes = {split: sum(example.split == split for example in built) for split in ("fresh", "noise", "abstain")}
    assert sizes == {"fresh": 12, "noise": 6, "abstain": 4}
    train = [example for example in built if example.split == "train"]
    assert 20 <= len(train) <= 40
    trained = set().union(*(shown(example) for example in train))
    tested = set().union(*(shown(example) for example in built if example.split != "train"))
    assert not trained & tested
    assert len({example.example_id for example in built}) == len(built)


def test_each_example_holds_its_answer_once_and_knows_where(corpus: list[Hit]) -> None:
    known = {hit.chunk_id: hit for hit in corpus}
    built = build(corpus, word_search(corpus), recipe=RECIPE, seed=3)
    for example in built:
        holding = [n for n, passage in enumerate(example.passages) if example.answers[0] in passage.text]
        if example.gold is None:
            assert example.target == ABSENT
            assert holding == []
        else:
            assert holding == [example.gold]
            assert example.target in example.answers
            assert example.passages[example.gold].document_id == example.document_id
        assert all(known[passage.chunk_id].document_id == passage.document_id for passage in example.passages)
    absent = [example for example in built if example.split == "train" and example.gold is None]
    assert len(absent) == pytest.approx(RECIPE.train * RECIPE.layout.absent, abs=2)
    assert {example.gold for example in built if example.split == "train"} >= {0, 1, 2}  # shuffled
    noise = [example for example in built if example.split == "noise"]
    assert {len(example.passages) for example in noise} == {6}, "more than to learn from, and one that misleads"


def test_what_users_said_is_trained_on_and_leaves_others_to_tell_when_to_stop(corpus: list[Hit]) -> None:
    """However much they said."""
    made = build(corpus, word_search(corpus), recipe=replace(RECIPE, train=200))
    hits = {hit.chunk_id: hit for hit in corpus}
    said = [
        Answered(one.question, one.target, (hits[one.passages[one.gold].chunk_id],))
        for one in made
        if one.split == "train" and one.gold is not None and not is_kept_back(one)
    ]
    hashed = next(one for one in made if one.split == "train" and one.gold is not None and is_kept_back(one))
    said.insert(0, Answered(hashed.question, hashed.target, (hits[hashed.passages[hashed.gold or 0].chunk_id],)))
    for recipe in (replace(RECIPE, train=60), replace(RECIPE, train=60, alone=True)):
        built = [one for one in build(corpus, word_search(corpus), said, recipe=recipe) if one.split == "train"]
        kept_back = [one for one in built if is_kept_back(one)]
        assert 2 <= len({one.question for one in kept_back}) <= recipe.train // 12
        assert all(is_kept_back(one) is (one.kind != "feedback") for one in built)
        assert not {one.question for one in kept_back} & {one.question for one in said}
        assert {one.gold is None for one in kept_back} == {True, False}


def test_a_small_corpus_has_more_to_learn_from_than_to_tell_when_to_stop(corpus: list[Hit]) -> None:
    for count in range(3, 30):
        built = build(corpus[:count], word_search(corpus[:count]), recipe=replace(RECIPE, train=400))
        learned = [one for one in built if one.split == "train"]
        taught = {one.question for one in learned if not is_kept_back(one)}
        assert len({one.question for one in learned} - taught) <= len(taught) / 3


def test_what_was_learned_from_in_an_earlier_cycle_is_not_asked(corpus: list[Hit]) -> None:
    """As with an edition of a document that came later."""
    built = build(corpus, word_search(corpus), recipe=RECIPE)
    asked = next(one for one in built if one.split == "fresh")
    earlier = replace(make_example(1), question=asked.question)
    recipe = replace(RECIPE, replay=0.0)
    again = build(corpus, word_search(corpus), (), [earlier], recipe=recipe)
    unseen = build(corpus, word_search(corpus), learned={asked.question}, recipe=recipe)  # one is in quarantine now
    for made in (again, unseen):
        assert any(one.split == "fresh" for one in made)
        assert asked.question not in {one.question for one in made if one.split != "train"}


def test_no_example_is_there_twice_where_pages_have_one_passage(corpus: list[Hit]) -> None:
    recipe = replace(RECIPE, train=200, layout=replace(LAYOUT, passages=1, words=60, absent=0.6))
    for seed in range(5):
        built = build(corpus[:12], word_search(corpus[:12]), recipe=recipe, seed=seed)
        assert len({one.example_id for one in built}) == len(built)


def test_what_is_learned_from_differs_in_width_and_what_is_evaluated_does_not(corpus: list[Hit]) -> None:
    recipe = replace(RECIPE, train=60, layout=replace(LAYOUT, spread=True, absent=0.3))

    def widths(recipe: Recipe) -> dict[str, set[int]]:
        made = build(corpus, word_search(corpus), recipe=recipe)
        splits = {one.split for one in made}
        return {split: {len(one.passages) for one in made if one.split == split} for split in splits}

    assert widths(recipe) == {"train": {1, 2, 3, 4, 5}, "fresh": {3}, "abstain": {3}, "noise": {6}}
    assert widths(replace(recipe, alone=True))["train"] == {1}


def test_the_same_input_gives_the_same_examples(corpus: list[Hit]) -> None:
    assert build(corpus, word_search(corpus), seed=1) == build(corpus, word_search(corpus), seed=1)
    assert build(corpus, word_search(corpus), seed=1) != build(corpus, word_search(corpus), seed=2)


def test_what_retrieval_does_not_find_is_not_asked(corpus: list[Hit]) -> None:
    assert build(corpus, lambda question, k: [], recipe=RECIPE) == []


def test_two_editions_of_a_document_do_not_have_a_question_on_both_sides() -> None:
    """A search finds both, as their numbers differ."""
    hits = [
        make_hit(
            f"{edition}-{number}",
            0,
            f"In those days {name} was made in the town of {name.title()}burg. Edition {edition}.",
        )
        for number, name in enumerate(f"{one}{other}" for one in "bdfgk" for other in "aeio")
        for edition in (1, 2)
    ]
    built = build(hits, word_search(hits), recipe=RECIPE, seed=1)
    sides = hold_out({hit.document_id for hit in hits}, 1, RECIPE.held_out)
    assert {one[2:] for one in sides} & {hit.document_id[2:] for hit in hits if hit.document_id not in sides}
    learned, asked = ({one.question for one in built if (one.split == "train") is side} for side in (True, False))
    assert learned
    assert asked
    assert not learned & asked


def test_a_section_begins_where_its_first_chunk_does() -> None:
    """Each chunk stands under its section's heading, the later ones too, and after those of its parts."""
    trail, part = ("Otters",), ("Otters", "Food")
    hits = [
        make_hit("d", 0, "Otters\n\nThe otters live in the rivers.", trail),
        make_hit("d", 1, "Otters\n\nThe otters sleep on the banks.", trail),
        make_hit("d", 2, "Food\n\nFish is the food of otters.", part),
        make_hit("d", 3, "Otters\n\nThe otters are seen at dusk.", trail),
    ]
    asked = {draft.question: draft.answer for _, draft in mixed_drafts(hits, 0) if draft.kind == "heading"}
    assert asked == {
        "What does the section Otters begin with?": "The otters live in the rivers.",
        "What does the section Food begin with?": "Fish is the food of otters.",
    }
    later = [draft for _, draft in mixed_drafts(hits[1:], 0) if draft.kind == "heading"]
    assert later == [], "what comes before is not known"


def test_a_passage_stands_under_its_heading() -> None:
    text = "Otters\n\nThe otters live here. " + "And so on it goes. " * 20 + "The end is near."
    hit = make_hit("d", 0, text, ("Otters",))
    last = len(questions.sentences(text)) - 1
    assert excerpt(hit, last, 8).text == "Otters\n\nThe end is near."
    assert excerpt(hit, 1, 5).text == "Otters The otters live here."
    assert excerpt(replace(hit, headings=()), last, 8).text == "The end is near."


def test_accepted_answers_come_first_with_the_passage_that_holds_them(corpus: list[Hit]) -> None:
    answered = Answered("Where does it listen?", f"port {4000 + 3}", (corpus[0], corpus[6], corpus[7]))
    plain = Layout(absent=0.0, adversarial=0.0)
    (made,) = [
        example
        for seed in range(1)
        for example in build(corpus, word_search(corpus), [answered], recipe=replace(RECIPE, layout=plain))
        if example.kind == "feedback" and example.split in ("train", "fresh")
    ]
    assert made.gold is not None
    assert made.passages[made.gold].chunk_id == corpus[6].chunk_id
    assert made.target == "port 4003"


def test_of_several_right_answers_the_one_that_is_found_is_learned_and_each_counts(corpus: list[Hit]) -> None:
    hits = (corpus[0], corpus[6], corpus[7])
    said = Answered("Where does it listen?", "at a door of its own", hits, "given", also=("port 4003", ABSENT))
    made = [one for one in build(corpus, word_search(corpus), [said], recipe=RECIPE) if one.kind == "given"]
    assert {one.target for one in made if one.gold is not None} == {"port 4003"}
    assert {one.answers for one in made if one.gold is not None} == {("port 4003", "at a door of its own")}


def test_an_accepted_answer_is_learned_or_asked_with_its_best_passage_never_both(corpus: list[Hit]) -> None:
    """Each answer shares a word with every document, and is whole in one."""
    answered = [Answered(f"Which port has {n}?", f"port {4000 + n}", tuple(corpus[::2])) for n in range(30)]
    built = build(corpus, word_search(corpus), answered, recipe=replace(RECIPE, train=80, fresh=40))
    made = [example for example in built if example.kind == "feedback" and example.gold is not None]
    sides = {split: {one.question for one in made if one.split == split} for split in ("train", "fresh")}
    assert sides["train"]
    assert sides["fresh"]
    assert not sides["train"] & sides["fresh"]
    assert all(one.target in one.passages[one.gold or 0].text for one in made)


def test_an_accepted_answer_that_no_passage_holds_is_left_out(corpus: list[Hit]) -> None:
    answered = [Answered("Why?", "because of reasons unknown", tuple(corpus[:3])), Answered("Why?", ABSENT, ())]
    assert not [e for e in build(corpus, word_search(corpus), answered, recipe=RECIPE) if e.kind == "feedback"]


def test_what_users_found_not_to_be_there_is_learned_beside_what_was_found(corpus: list[Hit]) -> None:
    plain = build(corpus, word_search(corpus), recipe=RECIPE)
    found = {f"Who was {n}?": tuple(corpus[n : n + 6]) for n in range(20)}
    said = [Answered(question, "not in the documents, I looked", hits, weight=1.5) for question, hits in found.items()]
    unsure = Answered("Who was it?", ABSENT, tuple(corpus), "given", also=("Quux",))
    built = build(corpus, word_search(corpus), [unsure, *said], recipe=RECIPE)
    made = [one for one in built if one.kind == "denied"]
    assert len(made) == RECIPE.denied * RECIPE.train, "no more, though others could be"
    taught = set().union(*map(shown, made))
    for one in made:
        assert (one.split, one.target, one.gold, one.weight) == ("train", ABSENT, None, 1.5)
        assert not is_kept_back(one)
        assert 0 < len(one.passages) <= LAYOUT.passages
        assert {passage.chunk_id for passage in one.passages} <= {hit.chunk_id for hit in found[one.question]}
        assert one.document_id == found[one.question][0].document_id
    assert not taught & {document for one in plain if one.split != "train" for document in shown(one)}
    assert [one for one in built if one.kind != "denied"] == plain, "and nothing else changes"


def test_replay_keeps_sides_and_becomes_anchor(corpus: list[Hit]) -> None:
    first = build(corpus, word_search(corpus), recipe=RECIPE, seed=3)
    second = build(corpus, word_search(corpus), replay=first, recipe=RECIPE, seed=4, episode=1)
    anchors = [example for example in second if example.split == "anchor"]
    assert len(anchors) == 4  # whole pages, of two each
    assert all(example.episode == 0 for example in anchors)
    before = set().union(*(shown(example) for example in first if example.split == "train"))
    after = set().union(*(shown(example) for example in second if example.split != "train"))
    assert not before & after  # nothing once trained on is ever tested on
    assert any(example.episode == 0 for example in second if example.split == "train")


def test_a_document_that_was_ever_tested_on_is_not_learned_from_again(corpus: list[Hit]) -> None:
    """Also where earlier examples were of both sides."""
    both = [
        replace(make_example(number, split), question=f"{split} {number}")
        for number in range(30)
        for split in ("train", "fresh")
    ]
    alone = [make_example(number) for number in range(100, 130)]
    recipe = replace(RECIPE, replay=0.5, anchor=60)
    made = build(corpus, word_search(corpus), replay=[*both, *alone], recipe=recipe, episode=1)
    learned, tested = (
        set().union(*(shown(one) for one in made if (one.split == "train") is train)) for train in (True, False)
    )
    assert len(tested & {one.document_id for one in both}) > 5
    assert learned & {one.document_id for one in alone}
    assert not learned & tested


@given(st.sets(st.text(min_size=1), min_size=2), st.integers(0, 9), st.floats(0, 1))
def test_both_sides_get_documents(documents: set[str], seed: int, share: float) -> None:
    held = hold_out(documents, seed, share)
    assert held < documents
    assert held
    assert held == hold_out(sorted(documents), seed, share)


def test_jsonl_round_trip(tmp_path: Path) -> None:
    made = [make_example(n, gold=bool(n % 2)) for n in range(4)]
    examples.write(tmp_path / "examples.jsonl", made)
    assert list(examples.read(tmp_path / "examples.jsonl")) == made


@pytest.mark.parametrize("text", ["", "\n\n", "one"])
def test_poor_text_costs_nothing(text: str) -> None:
    hits = [make_hit(f"d{n}", 0, text, ("H",)) for n in range(3)]
    assert build(hits, word_search(hits)) == []
