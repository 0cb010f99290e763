"""Chunks are bounded, complete, and stay where they are when the text around them is edited."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daemon.parsers import parse_bytes
from store.chunking import chunk, text_of
from store.types import Chunk, Section


def word_spans(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """A tokeniser of words and marks, as WordPiece's first step."""
    return [[match.span() for match in re.finditer(r"\w+|[^\w\s]", text)] for text in texts]


def byte_spans(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """A tokeniser of bytes: several tokens share one character, and spaces are tokens."""
    return [[(i, i + 1) for i, letter in enumerate(text) for _ in letter.encode()] for text in texts]


def context_spans(texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """A tokeniser that sees one token in a run of 100 characters or more, and each character of a shorter one."""
    found: list[list[tuple[int, int]]] = []
    for text in texts:
        spans: list[tuple[int, int]] = []
        for match in re.finditer(r"\S+", text):
            start, end = match.span()
            spans += [(start, end)] if end - start >= 100 else [(i, i + 1) for i in range(start, end)]
        found.append(spans)
    return found


def letters(text: str) -> str:
    return "".join(text.split())


TEXT = st.text(st.sampled_from("ab .\n-é漢。#\t\u2028🙂"), max_size=600)
SECTIONS = st.lists(
    st.builds(Section, TEXT, st.lists(TEXT.map(lambda text: text[:30]), max_size=3).map(tuple), st.none() | st.just(1)),
    max_size=6,
)


@example([Section("aaaaaaaa\u2028。", ("a",))], byte_spans, 16, 0)
@given(SECTIONS, st.sampled_from([word_spans, byte_spans, context_spans]), st.integers(16, 64), st.integers(0, 64))
@settings(max_examples=300, deadline=None)
def test_no_chunk_is_too_long_and_no_text_is_lost(sections, spans, tokens, overlap):
    chunks = chunk(sections, spans, tokens, overlap)
    assert [piece.position for piece in chunks] == list(range(len(chunks)))
    assert all(len(found) <= tokens for found in spans([piece.text for piece in chunks]))
    assert all(piece.text.strip() for piece in chunks)
    assert chunks == chunk(sections, spans, tokens, overlap)
    at = 0
    for section in sections:  # every section's text, in order
        for letter in letters(section.text):
            while at < len(chunks) and letter not in chunks[at].text:
                at += 1
            assert at < len(chunks)


@given(SECTIONS, st.sampled_from([word_spans, byte_spans, context_spans]), st.integers(16, 64), st.integers(0, 64))
@settings(max_examples=300, deadline=None)
def test_chunks_put_together_again_are_the_text(sections, spans, tokens, overlap):
    """Letter by letter; the headings, each once, are tried below."""
    plain = [Section(section.text, (), section.page) for section in sections]
    assert letters(text_of(chunk(plain, spans, tokens, overlap))) == letters("".join(one.text for one in plain))


@pytest.mark.parametrize("overlap", [0, 4, 16, 30])
@pytest.mark.parametrize("tokens", [24, 64, 200])
def test_the_text_is_exact_where_it_is_cut_at_paragraphs_or_overlaps(tokens, overlap):
    paragraphs = (f"Paragraph {i} says this.\n    It says that too,\nand {i} more:\n\n- a\n- b {i}" for i in range(60))
    text = "\n\n".join(paragraphs)
    found = text_of(chunk([Section(text, ("Manual", "Install"), 3)], word_spans, tokens, overlap))
    expected = f"Manual\n\nInstall\n\n{text}"
    assert found.split() == expected.split()
    assert found == expected or overlap < tokens // 8


def test_each_heading_stands_once_in_the_text():
    long = "word " * 100
    sections = [
        Section("Before.", ()),
        Section(long, ("A",)),
        Section("tiny", ("A", "x")),
        Section("tinier", ("A", "y")),
        Section(long, ("A", "B", "C")),
        Section(long, ("A", "B", "very " * 40 + "long")),
        Section(long, ("D",), 2),
        Section(long, ("D",), 3),
    ]
    found = text_of(chunk(sections, word_spans, 64, 16))
    headings = [line for line in found.split("\n") if line and not line.startswith("word")]
    assert headings == [
        *("Before.", "A", "x", "tiny", "y", "tinier", "B", "C", ("very " * 40 + "long")),
        "D",
    ]
    assert found.count("word") == 500


@pytest.mark.parametrize("text", ["x" * 50_000, "漢字" * 20_000, "a b " * 20_000, "same line\n" * 20_000, "{};" * 9000])
@pytest.mark.parametrize("spans", [word_spans, byte_spans, context_spans])
def test_text_without_structure_is_cut_all_the_same(text, spans):
    chunks = chunk([Section(text)], spans, 64, 0)
    assert all(len(found) <= 64 for found in spans([piece.text for piece in chunks]))
    assert letters("".join(piece.text for piece in chunks)) == letters(text)


def test_a_chunk_begins_with_its_heading_and_the_end_of_the_chunk_before():
    text = "\n\n".join(f"Paragraph {i} says this. It says that too, and {i} more." for i in range(40))
    chunks = chunk([Section(text, ("Manual", "Install"), 3)], word_spans, 64, 16)
    assert len(chunks) > 5
    for before, after in pairwise(chunks):
        assert after.text.startswith("Install\n\n")
        assert (after.headings, after.page) == (("Manual", "Install"), 3)
        own = after.text.removeprefix("Install\n\n")
        shared = max(n for n in range(1, len(own)) if before.text.endswith(own[:n].rstrip()))
        assert 0 < len(word_spans([own[:shared]])[0]) <= 16


def test_sections_are_not_joined_but_tiny_neighbours_are():
    long = "word " * 60
    chunks = chunk(
        [Section(long, ("A",)), Section(long, ("B",)), Section("one", ("C", "x")), Section("two", ("C", "y"))],
        word_spans,
        128,
        16,
    )
    assert [piece.headings for piece in chunks] == [("A",), ("B",), ("C",)]
    assert chunks[2].text == "C\n\nx\none\n\ny\ntwo"


def test_a_very_long_heading_leaves_room_for_the_text():
    chunks = chunk([Section("some text here " * 20, ("heading " * 500,))], word_spans, 64, 8)
    assert all(len(found) <= 64 for found in word_spans([piece.text for piece in chunks]))
    assert len(chunks) < 10


def test_indentation_of_code_is_kept():
    (only,) = chunk([Section("\n    return 1\n")], word_spans, 64, 8)
    assert only.text == "    return 1"


# --- edits

WORDS = ["alpha", "beta", "gamma", "memory", "daemon", "snapshot", "rollback", "vector", "index", "table", "query"]


def sentences(rng: random.Random, count: int) -> str:
    return " ".join(" ".join(rng.choices(WORDS, k=rng.randint(4, 18))).capitalize() + "." for _ in range(count))


def plain_paragraph(rng: random.Random) -> str:
    return sentences(rng, rng.randint(1, 8))


def code_paragraph(rng: random.Random) -> str:
    lines = [f"    {rng.choice(WORDS)}_{rng.randint(0, 99)} = {rng.choice(WORDS)}({rng.randint(0, 999)})"]
    body = [
        f"    {rng.choice(WORDS)} = {rng.choice(WORDS)}({rng.choice(WORDS)}, {n})" for n in range(rng.randint(2, 25))
    ]
    return "\n".join([f"def {rng.choice(WORDS)}_{rng.randint(0, 9999)}(x):", *lines, *body])


def section(rng: random.Random, kind: str, number: int) -> list[str]:
    if kind == "py":
        return [code_paragraph(rng) for _ in range(rng.randint(1, 4))]
    paragraphs = [plain_paragraph(rng) for _ in range(rng.randint(2, 14))]
    if kind == "html":
        return [f"<h2>Part {number} {rng.choice(WORDS)}</h2>", *(f"<p>{text}</p>" for text in paragraphs)]
    return [f"## Part {number} {rng.choice(WORDS)}", *paragraphs] if kind == "md" else paragraphs


def texts(paragraphs: Sequence[str], kind: str) -> list[str]:
    parsed = parse_bytes("\n\n".join(paragraphs).encode(), f"document.{kind}")
    return [piece.text for piece in chunk(parsed.sections, word_spans, 128, 16)]


@pytest.mark.parametrize("kind", ["md", "txt", "html", "py"])
def test_an_edit_costs_what_it_changes(kind):
    costs: dict[str, list[int]] = {"insert": [], "delete": [], "move": [], "word": []}
    for seed in range(20):
        rng = random.Random(f"{kind} {seed}")
        sections = [section(rng, kind, number) for number in range(20)]
        paragraphs = [paragraph for part in sections for paragraph in part]
        known = set(texts(paragraphs, kind))
        assert len(known) > 20
        new = code_paragraph(rng) if kind == "py" else plain_paragraph(rng)
        new = f"<p>{new}</p>" if kind == "html" else new
        # a heading is no place to edit: its words are in each of its section's chunks
        at = rng.choice([i for i, text in enumerate(paragraphs) if not text.startswith(("#", "<h2>"))])
        edited = {
            "insert": [*paragraphs[:at], new, *paragraphs[at:]],
            "delete": [*paragraphs[:at], *paragraphs[at + 1 :]],
            "word": [*paragraphs[:at], one_word_changed(rng, paragraphs[at]), *paragraphs[at + 1 :]],
        }
        moved = sections.pop(rng.randrange(len(sections)))
        sections.insert(rng.randrange(len(sections)), moved)
        edited["move"] = [paragraph for part in sections for paragraph in part]
        for edit, after in edited.items():
            costs[edit].append(len(set(texts(after, kind)) - known))
    # plain text has no sections: what is moved out and in again is three seams
    bounds = {"insert": (2.4, 6), "delete": (2.2, 6), "word": (1.6, 6), "move": (6, 14) if kind == "txt" else (1.5, 8)}
    for edit, (mean, most) in bounds.items():
        assert sum(costs[edit]) / len(costs[edit]) <= mean, (edit, costs[edit])
        assert max(costs[edit]) <= most, (edit, costs[edit])


def one_word_changed(rng: random.Random, paragraph: str) -> str:
    found = rng.choice(list(re.finditer(r"(?<=[ (])[a-z]+(?=[ ,)])", paragraph)))
    return paragraph[: found.start()] + "otherwise" + paragraph[found.end() :]


def test_a_paragraph_on_page_one_of_three_hundred_costs_three_chunks_at_most_and_a_word_two():
    rng = random.Random(5)
    pages = [Section("\n\n".join(plain_paragraph(rng) for _ in range(8)), page=number) for number in range(1, 301)]

    def known(sections: Sequence[Section]) -> set[str]:
        return {piece.text for piece in chunk(sections, word_spans, 256, 32)}

    before = known(pages)
    longer = Section("A new paragraph. It is short.\n\n" + pages[0].text, page=1)
    assert len(known([longer, *pages[1:]]) - before) <= 3
    middle = pages[150].text
    changed = Section(middle[:500] + middle[500:].replace("memory", "oblivion", 1), page=151)
    assert 1 <= len(known([*pages[:150], changed, *pages[151:]]) - before) <= 2
    # the same without pages: one long text
    whole = "\n\n".join(page.text for page in pages)
    before = known([Section(whole)])
    assert len(known([Section("A new paragraph. It is short.\n\n" + whole)]) - before) <= 3
    half = len(whole) // 2
    changed = Section(whole[:half] + whole[half:].replace("memory", "oblivion", 1))
    assert 1 <= len(known([changed]) - before) <= 2


def test_words_that_decide_no_cut_move_none():
    rng = random.Random(7)
    opening = [f"Return {word}{number}" for number, word in enumerate(rng.choices(WORDS, k=120))]
    paragraphs = [f"{two} as {sentences(rng, 3)}" for two in opening]  # all begin alike: their second words decide
    before = [piece.text for piece in chunk([Section("\n\n".join(paragraphs))], word_spans, 128, 0)]
    assert len(before) > 30
    for number, paragraph in enumerate(paragraphs):
        was, becomes = f"{opening[number]} as", f"{opening[number]} like"
        text = "\n\n".join([*paragraphs[:number], paragraph.replace(was, becomes), *paragraphs[number + 1 :]])
        after = [piece.text for piece in chunk([Section(text)], word_spans, 128, 0)]
        assert after == [piece.replace(was, becomes) for piece in before]


def test_a_word_costs_two_chunks_at_nearly_all_places():
    rng = random.Random(11)
    text = "\n\n".join(plain_paragraph(rng) for _ in range(120))
    known = {piece.text for piece in chunk([Section(text)], word_spans, 200, 30)}
    costs = []
    for place in range(1, 201):
        at = text.index(" ", len(text) * place // 202)
        edited = text[:at] + " unexpectedly" + text[at:]
        costs.append(sum(piece.text not in known for piece in chunk([Section(edited)], word_spans, 200, 30)))
    assert min(costs) == 1
    assert sum(costs) / len(costs) <= 1.35
    assert sum(cost > 2 for cost in costs) <= 4
    assert max(costs) <= 4


def test_positions_are_of_the_document():
    chunks = chunk([Section("a b c"), Section("  \n"), Section("d e f", ("H",))], word_spans, 16, 4)
    assert chunks == (Chunk("a b c", 0), Chunk("H\n\nd e f", 1, ("H",)))
