"""Retrievals and chunks -> examples, split by document before anything is trained.

The shape follows RAFT (Zhang et al. 2024): the right passage among distractors, in a share of the examples left
out. Unlike RAFT, the target is then to say that the answer is not there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from store.durable import write_text
from store.types import Example, Hit, Passage
from trainers.pages import Layout, Room, denied, pages
from trainers.sources import FROM_USERS, Answered, Search, Source, digest, find

KEPT_BACK = 12  # of so many questions that are made to learn from one tells when to stop


@dataclass(frozen=True, slots=True)
class Recipe:
    """How many examples of each kind, and how they look. The sizes of the sets are upper limits."""

    train: int = 128
    fresh: int = 24
    anchor: int = 12
    noise: int = 12  # with twice as many passages less one, and one that misleads
    abstain: int = 12
    held_out: float = 0.4  # share of the documents that are never trained on
    replay: float = 0.2  # training examples from earlier episodes, as a share of `train`
    denied: float = 0.05  # with so many more at most, as a share of `train`, that have no answer, as users said
    alone: bool = False  # train on the right passage alone
    k: int = 8  # the source must be among the first k that the search finds
    layout: Layout = field(default_factory=Layout)


def build(
    chunks: Sequence[Hit],
    search: Search,
    answered: Sequence[Answered] = (),
    replay: Sequence[Example] = (),
    known: Mapping[str, bool] | None = None,
    learned: Collection[str] | None = None,
    recipe: Recipe = Recipe(),
    seed: int = 0,
    episode: int = 0,
) -> list[Example]:
    """Examples with their split set: train, fresh, anchor, noise, abstain. The same input gives the same list.

    `chunks` are the newest ones first, `replay` the examples of earlier episodes with the split they had, `known` the
    `sides` of documents and `learned` the questions that were trained on, by default those that `replay` shows. No
    document occurs, be it as a distractor, both in train and in another split, and no question is asked in both; a
    document keeps its side. Examples with the same passages follow each other, those that are kept back (see
    `is_kept_back`) on pages of their own.
    """
    earlier = list({example.example_id: example for example in replay}.values())
    known = sides(earlier) if known is None else known
    documents = {hit.document_id for hit in [*chunks, *(hit for item in answered for hit in item.hits)]}
    held_out = hold_out(documents, seed, recipe.held_out, known)
    again = _drawn([one for one in earlier if one.split == "train"], round(recipe.replay * recipe.train))
    made: list[Example] = []
    for held in (False, True):
        side = frozenset(document for document in documents | set(known) if (document in held_out) is held)
        room = Room([hit for hit in chunks if hit.document_id in side], side)
        wanted = recipe.fresh if held else round((recipe.train - len(again)) * (1 - recipe.layout.absent))
        ask = partial(find, room.pool, side, search, words=recipe.layout.words, k=recipe.k, seed=seed)
        if held:
            sources = ask(answered, wanted)
            honest = replace(recipe.layout, spread=False, adversarial=0.0)
            wider = replace(honest, passages=2 * honest.passages - 1, absent=0.0, adversarial=1.0)
            fresh = pages(sources, room, honest, "fresh", seed, episode)  # with those of abstain
            made += _capped(fresh, "abstain", recipe.abstain)
            made += pages(sources[: recipe.noise], room, wider, "noise", seed, episode)
        else:
            alone = replace(recipe.layout, passages=1, spread=False, adversarial=0.0)
            layout = alone if recipe.alone else recipe.layout
            for sources in _to_learn(ask, answered, wanted):
                made += pages(sources, room, layout, "train", seed, episode)
            made += denied(answered, room, layout, math.ceil(recipe.denied * recipe.train), seed, episode)
    anchor = [replace(one, split="anchor") for one in earlier if one.split in ("fresh", "anchor")]
    # Two pages of the same passages, such as a page with one, can ask the same that is not there.
    unlike = {one.example_id: one for one in [*made, *again, *_drawn(anchor, recipe.anchor)]}
    return _unleaked(list(unlike.values()), asked_to_learn(earlier) if learned is None else learned)


def is_kept_back(example: Example) -> bool:
    """Whether a training example is not trained on, but tells when to stop: for ever, whatever cycle made it, as what
    an adapter learned in one would tell nothing in the next. What users said is trained on."""
    return example.kind not in FROM_USERS and _tells_when_to_stop(example.question)


def sides(earlier: Iterable[Example]) -> dict[str, bool]:
    """document -> whether it is held out, as earlier examples show it; held out wins."""
    return {
        passage.document_id: example.split != "train"
        for example in sorted(earlier, key=lambda example: example.split != "train")
        for passage in example.passages
    }


def asked_to_learn(earlier: Iterable[Example]) -> set[str]:
    """The questions of training examples."""
    return {one.question for one in earlier if one.split == "train"}


def hold_out(
    documents: Iterable[str], seed: int, share: float, known: Mapping[str, bool] | None = None
) -> frozenset[str]:
    """The documents that are held out of training: those that `known` says, and new ones up to `share` of all."""
    known = known or {}
    held = {document for document, out in known.items() if out}
    new = sorted(set(documents) - set(known), key=lambda document: digest(f"{seed}:{document}"))
    wanted = round(share * (len(new) + len(known))) - len(held)
    if len(new) > 1:
        wanted = min(max(wanted, 1), len(new) - 1)  # both sides get something of what is new
    return frozenset(held | set(new[: max(0, wanted)]))


def by_passages(examples: Iterable[Example]) -> list[list[Example]]:
    """The examples on the same passages together, in the order of the first of each."""
    groups: dict[tuple[Passage, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(example.passages, []).append(example)
    return list(groups.values())


def write(path: Path, examples: Iterable[Example]) -> None:
    """Write as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in examples))


def read(path: Path) -> Iterator[Example]:
    """What `write` wrote."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            fields = json.loads(line)
            passages = tuple(Passage(**passage) for passage in fields.pop("passages"))
            yield Example(**{**fields, "passages": passages, "answers": tuple(fields["answers"])})


def _drawn(examples: Sequence[Example], count: int) -> list[Example]:
    """A reservoir of whole pages, about `count` examples: each page has its place for good, so that what is drawn today
    is drawn tomorrow too, unless something new takes its place (bottom-k sampling, Cohen and Kaplan 2007)."""
    drawn: list[Example] = []
    for page in sorted(by_passages(examples), key=lambda page: digest("reservoir:" + page[0].example_id)):
        if len(drawn) + len(page) <= max(count, 0) or (count > 0 and not drawn):
            drawn += page
    return drawn


def _capped(examples: Sequence[Example], split: str, limit: int) -> list[Example]:
    """Without those of the split that come after its first `limit`."""
    over = [example.example_id for example in examples if example.split == split][limit:]
    return [example for example in examples if example.example_id not in over]


def _to_learn(
    ask: Callable[..., list[Source]], answered: Sequence[Answered], wanted: int
) -> tuple[list[Source], list[Source]]:
    """Those that are trained on, and those that are kept back: a third of the former at most, as few documents may have
    few that are not."""
    said, share = {one.question for one in answered}, wanted // KEPT_BACK
    taught = ask(answered, wanted - share, only=lambda question: not _tells_when_to_stop(question))
    left = partial(ask, (), min(share, len(taught) // 3))
    return taught, left(only=lambda question: _tells_when_to_stop(question) and question not in said)


def _tells_when_to_stop(question: str) -> bool:
    return int(digest(f"kept back:{question}"), 16) % KEPT_BACK == 0


def _unleaked(given: Sequence[Example], learned: Collection[str]) -> list[Example]:
    """Without training examples that show a document of an evaluation set, or ask what is asked there, as two editions
    of a document do; and without those of an evaluation set that ask what was `learned` in an earlier cycle."""
    examples = [one for one in given if one.split == "train" or one.question not in learned]

    def documents(example: Example) -> set[str]:
        return {example.document_id, *(passage.document_id for passage in example.passages)}

    tested = [example for example in examples if example.split != "train"]
    shown, asked = {one for example in tested for one in documents(example)}, {example.question for example in tested}
    return [
        example
        for example in examples
        if example.split != "train" or not (documents(example) & shown or example.question in asked)
    ]
