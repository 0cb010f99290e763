"""Retrievals and chunks -> examples, split by document before anything is trained.

The shape follows RAFT (Zhang et al. 2024): the right passage among distractors, in a share of the examples left
out. Unlike RAFT, the target is then to say that the answer is not there.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from store.durable import write_text
from store.types import Example, Hit, Passage
from trainers import questions
from trainers.prompt import ABSENT, is_absent

Search = Callable[[str, int], Sequence[Hit]]
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Answered:
    """A retrieval that the user accepted or corrected: `answer` is right, and `hits` are the chunks that it had."""

    question: str
    answer: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How many examples of each kind, and how they look. The sizes of the sets are upper limits."""

    train: int = 64
    fresh: int = 24
    anchor: int = 12
    noise: int = 12
    abstain: int = 12
    held_out: float = 0.4  # share of the documents that are never trained on
    absent: float = 0.2  # share of the training examples without the right passage
    replay: float = 0.2  # training examples from earlier episodes, as a share of `train`
    passages: int = 3  # per example; the noise set has twice as many less one
    words: int = 30  # per passage: the sentences around the evidence
    k: int = 8  # the source must be among the first k that the search finds


def build(
    chunks: Sequence[Hit],
    search: Search,
    answered: Sequence[Answered] = (),
    replay: Sequence[Example] = (),
    recipe: Recipe = Recipe(),
    seed: int = 0,
    episode: int = 0,
) -> list[Example]:
    """Examples with their split set: train, fresh, anchor, noise, abstain. The same input gives the same list.

    `chunks` are the newest ones first, `replay` the examples of earlier episodes with the split they had. No document
    occurs, be it as a distractor, both in train and in another split; a document keeps the side that replay shows.
    """
    known = {
        passage.document_id: example.split != "train"
        for example in sorted(replay, key=lambda example: example.split != "train")  # held out wins
        for passage in example.passages
    }
    documents = {hit.document_id for hit in [*chunks, *(hit for item in answered for hit in item.hits)]}
    held_out = hold_out(documents, seed, recipe.held_out, known)
    examples: list[Example] = []
    for held in (False, True):
        pool = [hit for hit in chunks if (hit.document_id in held_out) is held]
        side = frozenset(document for document in documents | set(known) if (document in held_out) is held)
        maker = _Maker(pool, search, side, recipe, seed, episode)
        sources = list(maker.sources(answered, recipe.fresh if held else recipe.train))
        if held:
            examples += maker.held_out_sets(sources)
        else:
            examples += [maker.make(source, "train", present=maker.present(source)) for source in sources]
    examples += _replayed(replay, recipe, seed)
    return _unleaked(examples)


def hold_out(
    documents: Iterable[str], seed: int, share: float, known: Mapping[str, bool] | None = None
) -> frozenset[str]:
    """The documents that are held out of training: those that `known` says, and new ones up to `share` of all."""
    known = known or {}
    held = {document for document, out in known.items() if out}
    new = sorted(set(documents) - set(known), key=lambda document: _digest(f"{seed}:{document}"))
    wanted = round(share * (len(new) + len(known))) - len(held)
    if len(new) > 1:
        wanted = min(max(wanted, 1), len(new) - 1)  # both sides get something of what is new
    return frozenset(held | set(new[: max(0, wanted)]))


def mixed_drafts(hits: Sequence[Hit], seed: int) -> Iterator[tuple[Hit, questions.Draft]]:
    """One document's drafts, the kinds mixed: of ten about six definitions, three clozes and a heading."""
    weights = {"definition": 6.0, "cloze": 3.0, "heading": 1.0}
    rng = random.Random(f"{seed}:{hits[0].document_id}")
    queues: dict[str, list[tuple[Hit, questions.Draft]]] = {}
    for hit in hits:
        for draft in questions.drafts(hit.text, hit.headings):
            queues.setdefault(draft.kind, []).append((hit, draft))
    for queue in queues.values():
        rng.shuffle(queue)
    while queues:
        kind = rng.choices(list(queues), [weights[kind] for kind in queues])[0]
        yield queues[kind].pop()
        if not queues[kind]:
            del queues[kind]


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


@dataclass(frozen=True, slots=True)
class _Source:
    """A question, its answer, the passage that holds it, and what retrieval finds for it."""

    kind: str
    question: str
    answer: str
    passage: Passage
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class _Maker:
    """Makes the examples of one side of the split."""

    pool: Sequence[Hit]
    search: Search
    side: frozenset[str]  # the documents on this side
    recipe: Recipe
    seed: int
    episode: int

    def sources(self, answered: Sequence[Answered], limit: int) -> Iterator[_Source]:
        """At most `limit`: what users confirmed first, then one question per document in turn."""
        given = 0
        for item in answered:
            source = self._confirmed(item)
            if source and given < limit:
                given += 1
                yield source
        queues = self._drafts()
        asked: set[str] = set()
        while queues and given < limit:
            for document in list(queues):
                if given == limit:
                    return
                drawn = next(queues[document], None)
                if drawn is None:
                    del queues[document]
                    continue
                hit, draft = drawn
                hits = () if draft.question in asked else tuple(self.search(draft.question, self.recipe.k))
                if hit.chunk_id in {found.chunk_id for found in hits}:
                    asked.add(draft.question)
                    given += 1
                    text = questions.window(questions.sentences(hit.text), draft.sentence, self.recipe.words)
                    yield _Source(draft.kind, draft.question, draft.answer, _passage(hit, text), hits)

    def _drafts(self) -> dict[str, Iterator[tuple[Hit, questions.Draft]]]:
        by_document: dict[str, list[Hit]] = {}
        for hit in self.pool:
            by_document.setdefault(hit.document_id, []).append(hit)
        return {document: mixed_drafts(hits, self.seed) for document, hits in by_document.items()}

    def _confirmed(self, item: Answered) -> _Source | None:
        """None where no passage on this side holds at least half of the answer's words."""
        hits = [hit for hit in item.hits if hit.document_id in self.side]
        wanted = _words(item.answer)
        if not hits or not wanted or is_absent(item.answer):
            return None
        parts = [(hit, questions.sentences(hit.text)) for hit in hits]
        share, hit, at, sentences = max(
            (
                (len(wanted & _words(sentence)) / len(wanted), hit, at, sentences)
                for hit, sentences in parts
                for at, sentence in enumerate(sentences)
            ),
            key=lambda scored: scored[0],
        )
        if share < 0.5:
            return None
        text = questions.window(sentences, at, self.recipe.words)
        return _Source("feedback", item.question, item.answer, _passage(hit, text), item.hits)

    def present(self, source: _Source) -> bool:
        return random.Random(f"{self.seed}:present:{source.question}").random() >= self.recipe.absent

    def held_out_sets(self, sources: Sequence[_Source]) -> list[Example]:
        """Fresh, and made from the same questions: noise with more distractors, abstain without the right passage."""
        recipe = self.recipe
        fresh = [self.make(source, "fresh", present=True) for source in sources]
        noise = [
            self.make(source, "noise", present=True, passages=2 * recipe.passages - 1)
            for source in sources[: recipe.noise]
        ]
        last_first = list(reversed(sources))
        abstain = [self.make(source, "abstain", present=False) for source in last_first[: recipe.abstain]]
        return fresh + noise + abstain

    def make(self, source: _Source, split: str, present: bool, passages: int | None = None) -> Example:
        count = passages or self.recipe.passages
        rng = random.Random(f"{self.seed}:{split}:{source.question}")
        shown = self._distractors(source, count - 1 if present else count, rng)
        if present:
            shown.append(source.passage)
        rng.shuffle(shown)
        gold = shown.index(source.passage) if present else None
        identity = json.dumps([source.question, split, self.episode, gold, [passage.text for passage in shown]])
        return Example(
            example_id=_digest(identity),
            kind=source.kind,
            question=source.question,
            passages=tuple(shown),
            target=source.answer if present else ABSENT,
            answers=(source.answer,) if present else (ABSENT,),
            gold=gold,
            document_id=source.passage.document_id,
            episode=self.episode,
            split=split,
        )

    def _distractors(self, source: _Source, count: int, rng: random.Random) -> list[Passage]:
        """Half near misses, best first, half random; none from the source's chunk, none that holds the answer."""
        asked = _words(source.question)
        answer = " ".join(source.answer.lower().split())
        found: dict[str, Passage] = {}

        def take(hits: Iterable[Hit], upto: int) -> None:
            for hit in hits:
                if len(found) >= upto:
                    return
                if hit.chunk_id == source.passage.chunk_id or hit.document_id not in self.side:
                    continue
                sentences = questions.sentences(hit.text)
                if not sentences:
                    continue
                nearest = max(range(len(sentences)), key=lambda at: len(asked & _words(sentences[at])))
                text = questions.window(sentences, nearest, self.recipe.words)
                if answer not in text.lower():
                    found.setdefault(hit.chunk_id, _passage(hit, text))

        take(source.hits, (count + 1) // 2)
        take(rng.sample(self.pool, len(self.pool)), count)
        return list(found.values())


def _replayed(replay: Sequence[Example], recipe: Recipe, seed: int) -> list[Example]:
    rng = random.Random(f"{seed}:replay")
    learned = [example for example in replay if example.split == "train"]
    tested = [replace(example, split="anchor") for example in replay if example.split in ("fresh", "anchor")]
    again = rng.sample(learned, min(len(learned), round(recipe.replay * recipe.train)))
    return again + rng.sample(tested, min(len(tested), recipe.anchor))


def _unleaked(examples: Sequence[Example]) -> list[Example]:
    """Without training examples that show a document of an evaluation set."""

    def documents(example: Example) -> set[str]:
        return {example.document_id, *(passage.document_id for passage in example.passages)}

    tested = {document for example in examples if example.split != "train" for document in documents(example)}
    return [example for example in examples if example.split != "train" or not documents(example) & tested]


def _passage(hit: Hit, text: str) -> Passage:
    return Passage(hit.chunk_id, hit.document_id, text, hit.location)


def _words(text: str) -> set[str]:
    return set(_WORDS.findall(text.lower()))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
