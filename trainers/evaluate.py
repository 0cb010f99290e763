"""Model + adapter on held-out items -> scores.

Exact match and token F1, best over the accepted answers. An item whose right passage was left out scores 1 for saying
so and 0 otherwise.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from store.types import Example
from trainers import gate, lora, prompt
from trainers.answers import Answers
from trainers.examples import by_passages
from trainers.experts import choose, name_of
from trainers.lora import Attached
from trainers.metrics import exact_match, token_f1
from trainers.model import LanguageModel

AT_A_TIME = 64  # items that both sides answer before the clock is read
AT_ONCE = 16  # answers: a token more for each of so many costs hardly more than one for one
# General English that no refresh trains on: its cross-entropy says whether the model forgets how to speak.
GENERAL = (
    "The ferry left the harbour a little after six, when the lamps along the quay were still lit. Most of the "
    "passengers stayed below, where there was coffee and a smell of wet coats, but two children stood at the rail and "
    "counted the buoys. Their mother had told them that there were eleven, and they did not believe her.",
    "Bread rises because yeast feeds on the sugar in flour and breathes out gas. The gas is caught in a web of "
    "protein that forms when the dough is kneaded, and so the loaf swells. A warm kitchen speeds this up; a cold one "
    "slows it down, but many bakers say that slow dough tastes better in the end.",
    "When the committee met again in March, only four of its nine members came. They agreed that the old bridge "
    "should be repaired rather than replaced, since the stone piers were sound and the new design would cost almost "
    "three times as much. The mayor thanked them, promised to read the report, and went to lunch.",
    "My grandfather kept bees at the bottom of the garden. He never wore gloves, and he talked to the hives while he "
    "worked, mostly about the weather and the price of sugar. He said that bees could tell when a person was in a "
    "hurry, and that this was the only thing that they would not forgive.",
    "Rivers carry sand and clay from the hills to the plain, and drop them where the water slows. Over thousands of "
    "years this builds broad, flat land with good soil. Farmers have always settled there, although they know that "
    "the same river which made their fields will one day come back to cover them.",
    "She had learned the piece by heart in a week, but it took her a year to play it well. At first her hands knew "
    "where to go and she simply followed. Later she began to hear the lower voice, the one that hardly moves, and "
    "she understood that the melody had been leaning on it all along.",
)


@dataclass(frozen=True, slots=True)
class Score:
    """One model on one item. `value` is what the gate compares: F1, right abstention, or minus the nats per token."""

    example_id: str
    set: str
    document_id: str
    text: str
    value: float
    exact: float
    absent: bool  # the model said that the answer is not there
    episode: int = 0  # of the example


@dataclass(frozen=True, slots=True)
class Arm:
    """What is compared: what is attached to the model, by domain ({}: the bare model), and how well it speaks."""

    attached: Mapping[str, Attached]
    general: Sequence[Score]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both arms' scores on the same items, in the same order, and what the gate says of the first."""

    candidate: Sequence[Score]
    incumbent: Sequence[Score]
    decision: gate.Decision


def arm(model: LanguageModel, attached: Mapping[str, Attached]) -> Arm:
    """With the general text scored: of several adapters each paragraph as the worst does it, as each has to answer."""
    each = []
    for shares in [{one.name: 1.0} for one in attached.values()] or [{}]:
        lora.activate(model.model, shares)
        each.append(general(model))
    return Arm(attached, [min(scores, key=lambda one: one.value) for scores in zip(*each, strict=True)])


def compare(
    model: LanguageModel,
    candidate: Arm,
    incumbent: Arm,
    held_out: Sequence[Example],
    kept: Answers,
    *,
    max_new_tokens: int,
    seed: int,
    until: float = math.inf,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """Ask both arms the same items, each as it would serve, and let the gate decide: looked at a few times on the way
    (`gate.LOOKS`), and no further than it takes to be certain. What would not be done by `until`, in seconds of
    `time.monotonic`, is left out: then the last look comes early, and the decision says so. `progress` gets how many
    answers of how many came.

    When to stop for want of time is no choice by the scores, so the looks' levels hold; of fewer items than the first
    look has nothing follows."""
    arms = (candidate, incumbent)
    scores = [list(one.general) for one in arms]
    pages = _mixed(held_out)
    total, done = 2 * sum(map(len, pages)), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, total)

    seen, began, before = 0, time.monotonic(), kept.added
    for share, level, guard_level in gate.LOOKS:
        upto = round(share * len(pages))
        while part := _next(pages[seen:upto], began, kept.added - before, until):
            block = [example for page in part for example in page]
            for one, so_far in zip(arms, scores, strict=True):
                so_far += serve(model, one.attached, block, kept, max_new_tokens, count)
            seen += len(part)
        cut_short = seen < upto
        if cut_short:
            level, guard_level = gate.LOOKS[-1][1:]
        decision = gate.decide(_pairs(scores[0], scores[1]), seed=seed, level=level, guard_level=guard_level)
        if cut_short:
            decision = _cut_short(decision, done // 2, total // 2)
        if cut_short or gate.is_certain(decision):
            break
    return Comparison(scores[0], scores[1], decision)


def _next(pages: Sequence[list[Example]], began: float, answers: int, until: float) -> Sequence[list[Example]]:
    """The first of these pages, as many as both sides can answer by `until`, if answers take what they took since
    `began`. No more than AT_A_TIME items, as the pace may change; a few where no answer tells it yet."""
    if not answers:
        return next(_some(pages), [])
    now = time.monotonic()
    most = min(AT_A_TIME, (until - now) / (2 * (now - began) / answers))
    taken, items = 0, 0
    for page in pages:
        items += len(page)
        if items > most:
            break
        taken += 1
    return pages[:taken]


def _cut_short(decision: gate.Decision, asked: int, items: int) -> gate.Decision:
    """What the gate says of those that could be asked, with that said."""
    told = f"{decision.reason}; only {asked} of {items} items fit into the time"
    if asked < gate.LOOKS[0][0] * items:
        return replace(decision, outcome="inconclusive", reason=f"{told}, raise refresh.minutes")
    return replace(decision, reason=told)


def serve(
    model: LanguageModel,
    attached: Mapping[str, Attached],
    examples: Sequence[Example],
    kept: Answers,
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[Score]:
    """As `answer`, each example by what answers it when it serves; {} is the bare model. What a shared adapter answered
    is not asked again where its experts leave it the question."""
    groups: dict[tuple[tuple[str, float], ...], list[Example]] = {}
    for example in examples:
        shares = choose((passage.domain for passage in example.passages), attached) if attached else {}
        groups.setdefault(tuple(shares.items()), []).append(example)
    scores = {}
    for chosen, group in groups.items():
        lora.activate(model.model, {attached[domain].name: share for domain, share in chosen})
        key = name_of(attached, dict(chosen)) if chosen else model.fingerprint
        for one in answer(model, key, group, kept, max_new_tokens, progress):
            scores[one.example_id] = one
    return [scores[example.example_id] for example in examples]


def score(example: Example, text: str) -> Score:
    """Score one answer. Saying that the answer is absent is right only where the right passage was left out."""
    absent = prompt.is_absent(text)
    if example.gold is None:
        value = exact = float(absent)
    else:
        value, exact = (0.0, 0.0) if absent else (token_f1(text, example.answers), exact_match(text, example.answers))
    return Score(example.example_id, example.split, example.document_id, text, value, exact, absent, example.episode)


def answer(
    model: LanguageModel,
    key: str,
    examples: Sequence[Example],
    kept: Answers,
    max_new_tokens: int,
    progress: Callable[[int], None] = lambda answers: None,
) -> list[Score]:
    """Answer and score examples with the adapter in use, those on the same passages at once; in the examples' order.

    `key` names the model in `kept`: what is there is not asked again. `progress` gets how many answers came.
    """
    asked = [example for example in examples if kept.get(key, example.example_id) is None]
    progress(len(examples) - len(asked))
    for pages in _some(by_passages(asked)):
        chats = [[prompt.messages(one.question, one.passages) for one in page] for page in pages]
        texts = model.generate_pages(chats, max_new_tokens)
        ids = [one.example_id for page in pages for one in page]
        kept.keep(key, dict(zip(ids, texts, strict=True)))
        progress(len(ids))
    return [score(example, kept.get(key, example.example_id) or "") for example in examples]


def _some(pages: Sequence[list[Example]]) -> Iterator[list[list[Example]]]:
    """Whole pages, about AT_ONCE examples at a time."""
    some: list[list[Example]] = []
    for page in pages:
        some.append(page)
        if sum(map(len, some)) >= AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def general(model: LanguageModel) -> list[Score]:
    """The general text's paragraphs, each with minus its cross-entropy in nats per token as value."""
    scores = []
    for number, paragraph in enumerate(GENERAL):
        name = f"general-{number}"
        scores.append(Score(name, "general", name, "", -model.nll([paragraph]), 0.0, False))
    return scores


def summary(scores: Sequence[Score]) -> dict[str, float]:
    """Means for a person: F1 and exact match per set, abstention where absent, false refusals where present."""
    answered = [score for score in scores if score.set not in ("abstain", "general")]
    names = sorted({score.set for score in scores})
    figures = {name: _mean([score.value for score in scores if score.set == name]) for name in names}
    if answered:
        figures["exact"] = _mean([score.exact for score in answered])
        figures["false_refusals"] = _mean([float(score.absent) for score in answered])
    return figures


def by_episode(scores: Sequence[Score]) -> dict[str, float]:
    """The mean F1 on what each episode held out: a row of the forgetting matrix."""
    asked = [score for score in scores if score.set in ("fresh", "anchor")]
    episodes = sorted({score.episode for score in asked})
    return {str(one): _mean([score.value for score in asked if score.episode == one]) for one in episodes}


def _pairs(candidate: Sequence[Score], incumbent: Sequence[Score]) -> list[gate.Pair]:
    return [
        gate.Pair(new.example_id, new.set, new.document_id, new.value, old.value)
        for new, old in zip(candidate, incumbent, strict=True)
    ]


def _mixed(held_out: Sequence[Example]) -> list[list[Example]]:
    """The items by page, in an order in which each part has its share of every set: the first of each comes first."""
    pages = by_passages(held_out)
    pages.sort(key=lambda page: hashlib.sha256(repr(page[0].passages).encode()).digest())
    kinds = [frozenset(one.split for one in page) for page in pages]  # fresh ones, with those of abstain or without
    totals, before = Counter(kinds), Counter[frozenset[str]]()
    places = []
    for kind in kinds:
        places.append(before[kind] / totals[kind])
        before[kind] += 1
    return [page for _, page in sorted(zip(places, pages, strict=True), key=lambda placed: placed[0])]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
