"""What the language model is given: whole passages, widened while there is room, each text once."""

from __future__ import annotations

import pytest

from daemon.passages import FRAME, gather
from daemon.settings import Rule, Source
from store.types import Hit, Passage
from tests.daemon.conftest import World

LINES = [f"Line {name} tells of {name} things and of nothing else that is worth a word." for name in "abcdefghijkl"]


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture
def book(world: World) -> World:
    """A document of many chunks, one of one."""
    from daemon.settings import Chunking

    world.reopen(chunking=Chunking(tokens=32, overlap=8), state_dir=world.settings.state_dir.with_name("small"))
    world.write("book.txt", "\n\n".join(LINES))
    world.write("leaf.txt", "A leaf of its own.")
    world.sync()
    return world


def chunks(world: World, name: str = "book.txt") -> list[Hit]:
    return world.runtime.memory.chunks([world.ids()[name]])


def gathered(world: World, hits: list[Hit], tokens: int) -> list[Passage]:
    memory = world.runtime.memory
    return gather(memory, hits, memory.head(), words, tokens)


def test_a_passage_says_its_domain(book: World) -> None:
    book.reopen(sources=(Source(path=book.docs, rules=(Rule(pattern="book*", domain="books"),)),))
    book.sync()
    found = gathered(book, [*chunks(book)[:1], *chunks(book, "leaf.txt")], 10_000)
    assert [passage.domain for passage in found] == ["books", ""]


def test_as_many_as_fit_and_at_least_one(book: World) -> None:
    (leaf,), (first, *_) = chunks(book, "leaf.txt"), chunks(book)
    both = words(leaf.text) + words(first.text) + 2 * FRAME
    assert [one.chunk_id for one in gathered(book, [leaf, first], both)] == [leaf.chunk_id, first.chunk_id]
    assert [one.chunk_id for one in gathered(book, [leaf, first], both - 1)] == [leaf.chunk_id]
    assert [one.text for one in gathered(book, [first, leaf], 1)] == [first.text]
    assert [one.text for one in gathered(book, [first, leaf], -5)] == [first.text]


def test_what_room_is_left_widens_a_passage_on_both_sides(book: World) -> None:
    all_of_it = chunks(book)
    middle = all_of_it[len(all_of_it) // 2]
    room = words(middle.text) + FRAME
    (bare,) = gathered(book, [middle], room)
    assert bare.text == middle.text
    lengths = []
    for more in (20, 60, 90):
        (wide,) = gathered(book, [middle], room + more)
        assert (wide.chunk_id, wide.document_id) == (middle.chunk_id, middle.document_id)
        assert middle.text.split("\n\n")[-1] in wide.text
        assert words(wide.text) <= room + more - FRAME
        lengths.append(words(wide.text))
    assert lengths == sorted(set(lengths)), "more room, more text"
    (whole,) = gathered(book, [middle], 10_000)
    assert [line for line in LINES if whole.text.count(line) != 1] == []
    assert whole.text.split() == "\n\n".join(LINES).split()


def test_passages_that_meet_become_one_in_the_place_of_the_better(book: World) -> None:
    parts = chunks(book)
    (leaf,) = chunks(book, "leaf.txt")
    first, second, *_ = gathered(book, [parts[4], leaf, parts[3]], 10_000)
    assert [first.chunk_id, second.chunk_id] == [parts[4].chunk_id, leaf.chunk_id]
    assert first.text.split() == "\n\n".join(LINES).split()
    narrow = sum(words(one.text) for one in (parts[3], parts[4])) + 2 * FRAME
    (joined,) = gathered(book, [parts[4], parts[3]], narrow)
    assert joined.chunk_id == parts[4].chunk_id
    assert joined.text.startswith(parts[3].text)
    assert joined.text.endswith(parts[4].text[parts[4].fresh_at :])
    apart = gathered(book, [parts[6], parts[1]], words(parts[6].text) + words(parts[1].text) + 2 * FRAME)
    assert [one.text for one in apart] == [parts[6].text, parts[1].text]


def test_the_past_is_widened_by_the_past(book: World) -> None:
    memory, then = book.runtime.memory, chunks(book)
    head = memory.head()
    book.write("book.txt", "\n\n".join([*LINES[:6], "Something else.", *LINES[6:]]))
    book.sync()
    (old,) = gather(memory, [then[5]], head, words, 10_000)
    assert "Something else." not in old.text
    (new,) = gather(memory, [chunks(book)[5]], memory.head(), words, 10_000)
    assert "Something else." in new.text
