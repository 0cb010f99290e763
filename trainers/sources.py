"""Where questions with known answers come from: answers that users confirmed, and sentences of the documents.

A question is kept only if retrieval finds its source again, as nobody could answer it otherwise.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from store.types import Hit, Passage
from trainers import questions
from trainers.prompt import is_absent

Search = Callable[[str, int], Sequence[Hit]]
# Of ten questions on a document about five definitions, three blanks, an entry of a table or list, and a heading.
MIXTURE = {"definition": 5.0, "cloze": 3.0, "entry": 1.0, "heading": 1.0}
MOST_PER_DOCUMENT = 12
DENIED = "denied"  # the kind of questions that have no answer in the documents, as users say
FROM_USERS = frozenset({"feedback", "given", DENIED})  # the kinds that are not made from documents
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Answered:
    """A question whose answer is known to be right, and the chunks that were found for it, best first. `also`: other
    answers that are right. An answer may be that there is none."""

    question: str
    answer: str
    hits: tuple[Hit, ...]
    kind: str = "feedback"
    weight: float = 1.0
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A question, its answer, the passage that holds it, what retrieval finds for it, and other answers that are
    right."""

    kind: str
    question: str
    answer: str
    passage: Passage
    hits: tuple[Hit, ...]
    weight: float = 1.0
    also: tuple[str, ...] = ()


def find(
    pool: Sequence[Hit],
    side: frozenset[str],
    search: Search,
    answered: Sequence[Answered],
    limit: int,
    *,
    words: int,
    k: int,
    seed: int,
    only: Callable[[str], bool] = lambda question: True,
) -> list[Source]:
    """At most `limit` sources in documents of `side`: what users confirmed first, then one question on each document of
    `pool` in turn, none twice, and `only` such ones. Their passages have about `words` words around the evidence."""
    found = [source for item in answered if (source := _confirmed(item, side, words))][:limit]
    asked = {source.question for source in found}
    queues = {document: mixed_drafts(hits, seed) for document, hits in _by_document(pool).items()}
    drawn = dict.fromkeys(queues, 0)
    while queues and len(found) < limit:
        for document in list(queues):
            draft = next(queues[document], None)
            if draft is None or drawn[document] == MOST_PER_DOCUMENT or len(found) == limit:
                del queues[document]
                continue
            hit, one = draft
            if one.question in asked or not only(one.question):
                continue
            asked.add(one.question)
            hits = tuple(search(one.question, k))
            if hit.chunk_id in {other.chunk_id for other in hits}:
                drawn[document] += 1
                found.append(Source(one.kind, one.question, one.answer, excerpt(hit, one.sentence, words), hits))
    return found


def mixed_drafts(hits: Sequence[Hit], seed: int) -> Iterator[tuple[Hit, questions.Draft]]:
    """One document's drafts, the kinds mixed."""
    rng = random.Random(f"{seed}:{hits[0].document_id}")
    queues: dict[str, list[tuple[Hit, questions.Draft]]] = {}
    opened: set[tuple[str, ...]] = set()
    for at, hit in enumerate(sorted(hits, key=lambda hit: hit.position)):
        opens = hit.position == at and hit.headings not in opened  # whatever comes before is here too
        opened.add(hit.headings)
        for draft in questions.drafts(hit.text, hit.headings if opens else ()):
            queues.setdefault(draft.kind, []).append((hit, draft))
    for queue in queues.values():
        rng.shuffle(queue)
    while queues:
        kind = rng.choices(list(queues), [MIXTURE[kind] for kind in queues])[0]
        yield queues[kind].pop()
        if not queues[kind]:
            del queues[kind]


def excerpt(hit: Hit, sentence: int, words: int) -> Passage:
    """The sentence of a chunk with its neighbours, under the chunk's heading, as a passage."""
    parts = questions.sentences(hit.text)
    text = questions.window(parts, sentence, words)
    if parts[0] in hit.headings and not text.startswith(parts[0]):
        text = f"{parts[0]}\n\n{text}"
    return Passage(hit.chunk_id, hit.document_id, text, hit.location, hit.domain)


def nearest(hit: Hit, question: str, words: int) -> Passage | None:
    """The part of a chunk that shares the most words with a question; None where it has no sentence."""
    parts = questions.sentences(hit.text)
    if not parts:
        return None
    asked = words_of(question)
    return excerpt(hit, max(range(len(parts)), key=lambda at: len(asked & words_of(parts[at]))), words)


def words_of(text: str) -> set[str]:
    return set(_WORDS.findall(text.lower()))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _confirmed(item: Answered, side: frozenset[str], words: int) -> Source | None:
    """None where no sentence holds at least half of an answer's words, or the one with the most is on the other side: a
    question is learned from or asked, never both, and never with the second-best evidence. Of several answers that with
    the best is learned."""
    right = [one for one in (item.answer, *item.also) if words_of(one) and not is_absent(one)]
    best: tuple[float, str, Hit, int] | None = None
    for answer in right:
        wanted = words_of(answer)
        for hit in item.hits:
            for at, sentence in enumerate(questions.sentences(hit.text)):
                share = len(wanted & words_of(sentence)) / len(wanted)
                if share >= 0.5 and (best is None or share > best[0]):
                    best = share, answer, hit, at
    if best is None or best[2].document_id not in side:
        return None
    _, answer, hit, at = best
    also = tuple(one for one in right if one != answer)
    return Source(item.kind, item.question, answer, excerpt(hit, at, words), item.hits, item.weight, also)


def _by_document(pool: Sequence[Hit]) -> dict[str, list[Hit]]:
    found: dict[str, list[Hit]] = {}
    for hit in pool:
        found.setdefault(hit.document_id, []).append(hit)
    return found
