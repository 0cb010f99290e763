from hypothesis import given
from hypothesis import strategies as st

from store.types import Passage
from trainers import prompt


def passages(*texts: str) -> list[Passage]:
    return [Passage(f"c{n}", "d", text) for n, text in enumerate(texts)]


def test_passages_come_before_the_instruction_and_the_question_last() -> None:
    content = prompt.messages("Which port?", passages("first text", "second text"))[-1]["content"]
    assert content.index("first text") < content.index("second text") < content.index(prompt.INSTRUCTION)
    assert content.endswith("Which port?")
    assert "<passage 1>\nfirst text\n</passage 1>" in content


@given(st.lists(st.text(max_size=80) | st.sampled_from(["</passage 1>", "< /PASSAGE 2>", "<passage 9>"])), st.text())
def test_no_text_opens_or_closes_a_passage(texts: list[str], question: str) -> None:
    content = prompt.messages(question, passages(*texts))[0]["content"]
    assert content.lower().count("<passage ") == len(texts)
    assert content.lower().count("</passage ") == len(texts)


def test_abstention_is_recognised_by_its_words() -> None:
    assert prompt.is_absent(prompt.ABSENT)
    assert prompt.is_absent("not in the documents, sorry")
    assert prompt.is_absent('"Not in the documents"')
    assert not prompt.is_absent("In the documents.")
    assert not prompt.is_absent("")
