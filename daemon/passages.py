"""From what a search found to the passages that a language model is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from store.chunking import excerpt_of
from store.memory import Memory
from store.types import Chunk, Head, Hit, Passage

REACH = 8  # the neighbours on either side that are looked at
FRAME = 16  # tokens that the delimiters of a passage take, at most

Key = tuple[str, str, int]  # document, revision, position
Count = Callable[[str], int]  # the tokens of a text


def gather(memory: Memory, hits: Sequence[Hit], head: Head, count: Count, tokens: int) -> list[Passage]:
    """As many passages as fit into `tokens`, best first, and at least the best one.

    What room is left widens them to their neighbours in the document, a step on either side of each in turn; passages
    that meet become one, in the place of the better.
    """
    chosen: dict[Key, int] = {}  # a chunk and the rank of the hit that it is shown for
    for rank, hit in enumerate(hits):
        cost = count(hit.text) + FRAME
        if chosen and cost > tokens:
            break
        tokens -= cost
        chosen[_key(hit)] = rank
    shown = hits[: len(chosen)]
    chunks = {_key(one): one for one in (*shown, *(memory.around(shown, REACH, head) if tokens > 0 else ()))}
    _widen(chosen, chunks, count, tokens)
    passages = []
    for run in sorted(_runs(chosen), key=lambda run: min(chosen[key] for key in run)):
        hit = hits[min(chosen[key] for key in run)]
        text = excerpt_of(_chunk(chunks[key]) for key in run)
        location = _location([chunks[key] for key in run])
        passages.append(Passage(hit.chunk_id, hit.document_id, text, location, hit.domain))
    return passages


def _widen(chosen: dict[Key, int], chunks: Mapping[Key, Hit], count: Count, tokens: int) -> None:
    """Add to `chosen` what lies beside, as long as it fits."""
    ends = [(key, step) for key in chosen for step in (1, -1)]
    while ends:
        further = []
        for (document, revision, position), step in ends:
            beside = (document, revision, position + step)
            if beside in chosen or beside not in chunks:
                continue
            cost = count(chunks[beside].text[chunks[beside].fresh_at :])
            if cost <= tokens:
                tokens -= cost
                chosen[beside] = chosen[document, revision, position]
                further.append((beside, step))
        ends = further


def _runs(keys: Mapping[Key, int]) -> Iterator[list[Key]]:
    """Chunks that follow each other in a document."""
    run: list[Key] = []
    for key in sorted(keys):
        if run and key != (run[-1][0], run[-1][1], run[-1][2] + 1):
            yield run
            run = []
        run.append(key)
    if run:
        yield run


def _location(run: Sequence[Hit]) -> str:
    """Where a run of chunks stands: from the place of its first to that of its last."""
    first, last = run[0].location, run[-1].location
    return first if first == last else f"{first} to {last.removeprefix(run[0].path + ', ')}"


def _key(hit: Hit) -> Key:
    return hit.document_id, hit.revision, hit.position


def _chunk(hit: Hit) -> Chunk:
    return Chunk(hit.text, hit.position, hit.headings, hit.page, hit.fresh_at)
