"""A bad file costs only itself: it gives text or a reason, within limits, and the next file is read as ever."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import zipfile

import pytest

from daemon.parse import ASIDE, Parsed, ParserProcess, StillParsing
from daemon.parsers import archive, parse_bytes
from store.errors import ParseError
from store.types import Section
from tests.daemon.test_parse_formats import docx_bytes, pdf_bytes


@pytest.fixture(scope="module")
def parser():
    with ParserProcess(memory_mb=768, seconds=30) as process:
        yield process


def reason(parser: ParserProcess, data: bytes, name: str) -> str:
    """Why it cannot be parsed; and that the next file can."""
    with pytest.raises(ParseError) as error:
        parser.parse(data, name)
    assert parser.parse(b"# A\n\nb", "a.md").sections == (Section("b", ("A",)),)
    return str(error.value)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def test_the_child_gives_what_the_parser_gives(parser):
    for data, name in (
        (b"---\ntags: a\n---\n# T\n\nx", "a.md"),
        (pdf_bytes(), "a.pdf"),
        (b"", "a.txt"),
        (b"x", "\udcff"),
    ):
        assert parser.parse(data, name) == parse_bytes(data, name)
    assert isinstance(parser.parse(b"x", "a"), Parsed)


@pytest.mark.parametrize("name", ["a.docx", "a.pptx", "a.xlsx", "a.epub", "a"])
def test_zip_bomb(parser, name, monkeypatch):
    bomb = zipped({"word/document.xml": bytes(archive.MOST_UNPACKED + 1)})
    assert len(bomb) < 1 << 20
    assert "zip bomb" in reason(parser, bomb, name)


def test_zip_bomb_within_the_limit_of_size_meets_the_limit_of_memory():
    # 200 MB of elements become far more than that as a tree
    document = b"<w:document xmlns:w='http://schemas.openxmlformats.org/wordprocessingml/2006/main'><w:body>"
    members = {"word/document.xml": document + b"<w:p/>" * 30_000_000}
    with zipfile.ZipFile(io.BytesIO(docx_bytes())) as good:
        members |= {name: good.read(name) for name in good.namelist() if name != "word/document.xml"}
    with ParserProcess(memory_mb=768, seconds=60) as parser:
        reason(parser, zipped(members), "a.docx")


def test_gzip_bomb(parser):
    import gzip

    assert "gzip bomb" in reason(parser, gzip.compress(bytes(archive.MOST_UNPACKED + 1), 9), "a.txt.gz")
    assert "cut off" in reason(parser, gzip.compress(b"text" * 1000)[:-10], "a.txt.gz")


def test_damaged_and_encrypted_pdf(parser):
    assert "password" in reason(parser, pdf_bytes(password="secret"), "a.pdf")
    whole = pdf_bytes(pages=30)
    assert "pdf" in reason(parser, whole[: len(whole) // 2], "a.pdf").lower()
    assert "pdf" in reason(parser, b"%PDF-1.7\n", "a.pdf").lower()
    assert "pdf" in reason(parser, b"\0garbage", "a.pdf").lower()


def test_damaged_office_files(parser):
    whole = docx_bytes()
    for data in (whole[: len(whole) // 2], b"not a zip", zipped({"other": b""})):
        for name in ("a.docx", "a.pptx", "a.xlsx", "a.epub"):
            assert "cannot be read as" in reason(parser, data, name)


def test_xml_entities_are_not_loaded(parser, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("the secret")
    entity = f'<!DOCTYPE c [<!ENTITY x SYSTEM "file://{secret}">]><container><rootfile full-path="p"/>&x;</container>'
    container = {"META-INF/container.xml": entity.encode()}
    with pytest.raises(ParseError):
        parser.parse(zipped(container), "a.epub")
    page = (
        f'<!DOCTYPE html [<!ENTITY x SYSTEM "file://{secret}">]><p>see &x;</p><iframe src="file://{secret}"></iframe>'
    )
    assert "the secret" not in str(parser.parse(page.encode(), "a.html"))
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    container = {"META-INF/container.xml": f'<!DOCTYPE c [<!ENTITY l0 "ha">{laughs}]><c>&l11;</c>'.encode()}
    reason(parser, zipped(container), "a.epub")


def test_deep_nesting(parser):
    assert parser.parse(b"<div>" * 5_000 + b"deep", "a.html").sections == (Section("deep"),)
    assert "deep" in reason(parser, b"<div>" * 200_000 + b"deep", "a.html")
    assert "deep" in reason(parser, b"<b>" * 200_000 + b"deep" + b"</b>" * 200_000, "a.html")
    deep = b"[" * 200_000 + b"]" * 200_000
    assert parser.parse(deep, "a.json").sections  # as plain text
    assert parser.parse(b'{"a":' * 900 + b"1" + b"}" * 900, "a.json").sections
    assert parser.parse(deep, "a.jsonl").sections
    reason(parser, deep, "a.ipynb")
    assert parser.parse(b"> " * 50_000 + b"x", "a.md").sections


@pytest.mark.parametrize(
    "data",
    [
        b"#" * 500_000,
        b"=" * 500_000 + b"\n",
        (b"a" * 300 + b"\n") * 3000,
        b"int " * 60_000 + b"(",
        (b"const a " * 30 + b"\n") * 3000,
        b"\\f" * 200_000,
        b" " * 500_000 + b"x",
        b"\n" * 500_000,
        b"---\n" * 100_000,
        b"`" * 500_000,
        b"a,b\n" * 100_000,
        b'"' * 100_001,
        b"\xe9" * 300_000,
    ],
)
def test_no_pattern_takes_forever(parser, data):
    for name in ("a.md", "a.rst", "a.c", "a.sql", "a.1", "a.csv", "a.html", "a.txt", "a.eml", "a.json"):
        began = time.monotonic()
        with contextlib.suppress(ParseError):
            parser.parse(b".TH A\n" + data if name == "a.1" else data, name)
        assert time.monotonic() - began < 15, name


def test_binary_content(parser):
    assert reason(parser, b"text\0with\0nul" * 50, "a.txt") == "binary, not text"
    assert reason(parser, bytes(range(256)) * 10, "a.md") == "binary, not text"
    assert reason(parser, os.urandom(4096), "data") == "not a format that memex reads"
    assert parser.parse(b"caf\xe9 and na\xefve", "a.txt").sections[0].text == "café and naïve"
    assert parser.parse(b"valid \xff\xfe\xfd invalid, and much more text follows", "a.txt").sections


def test_a_child_that_hangs_is_ended_and_replaced():
    with ParserProcess(memory_mb=768, seconds=1) as parser:
        parser.parse(b"x", "a.txt")
        first = pid_of(parser)
        os.kill(first, signal.SIGSTOP)
        assert "took longer than 1 s" in reason_of(parser)
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)
        parser._seconds = 30
        assert parser.parse(b"x", "a.txt").sections


def pid_of(parser: ParserProcess) -> int:
    assert parser._idle is not None
    return parser._idle._process.pid


def test_a_file_that_takes_long_is_parsed_aside_when_others_wait():
    with ParserProcess(memory_mb=768, seconds=30) as parser:
        parser.parse(b"x", "a.txt")
        slow = pid_of(parser)
        os.kill(slow, signal.SIGSTOP)  # as if the file took long
        began = time.monotonic()
        with pytest.raises(StillParsing):
            parser.parse(b"slow", "slow.txt", lambda: True)
        assert time.monotonic() - began < 5
        assert parser.parse(b"quick", "quick.txt").sections == (Section("quick"),)
        assert pid_of(parser) != slow
        with pytest.raises(StillParsing):
            parser.parse(b"slow", "slow.txt", lambda: True)
        os.kill(slow, signal.SIGCONT)
        assert parser.parse(b"slow", "slow.txt").sections == (Section("slow"),)
        assert not is_running(slow), "one that waits for files is enough"


def test_only_a_few_are_parsed_aside_and_what_nobody_asks_for_again_is_let_go():
    with ParserProcess(memory_mb=768, seconds=2) as parser:
        aside = []
        for number in range(ASIDE):
            parser.parse(b"x", "a.txt")
            aside.append(pid_of(parser))
            os.kill(aside[-1], signal.SIGSTOP)
            with pytest.raises(StillParsing):
                parser.parse(b"slow", f"{number}.txt", lambda: True)
        parser.parse(b"x", "a.txt")
        os.kill(pid_of(parser), signal.SIGSTOP)
        with pytest.raises(ParseError, match="took longer than 2 s"):
            parser.parse(b"slow", "one more.txt", lambda: True)
        assert parser.parse(b"x", "a.txt").sections
        assert [pid for pid in aside if is_running(pid)] == []


def reason_of(parser: ParserProcess) -> str:
    with pytest.raises(ParseError) as error:
        parser.parse(b"x", "a.txt")
    return str(error.value)


def test_a_child_that_died_between_two_files_is_replaced_unnoticed():
    with ParserProcess(memory_mb=768) as parser:
        parser.parse(b"x", "a.txt")
        os.kill(pid_of(parser), signal.SIGKILL)
        time.sleep(0.2)
        assert parser.parse(b"x", "a.txt").sections


def test_too_much_memory():
    with ParserProcess(memory_mb=400, seconds=60) as parser:
        text = reason(parser, b"[" + b"{}," * 20_000_000 + b"{}]", "a.json")
    assert "400 MB" in text


def test_the_child_writes_no_file_and_sees_no_environment(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with ParserProcess() as parser:
        parser.parse(b"x", "a.txt")
        pid = pid_of(parser)
        if sys.platform == "linux":
            with open(f"/proc/{pid}/environ", "rb") as environ:
                assert b"hf_secret" not in environ.read()
            with open(f"/proc/{pid}/limits") as limits:
                file_size = next(line for line in limits if line.startswith("Max file size"))
            assert file_size.split()[3:5] == ["0", "0"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_the_child_ends_with_its_parent():
    script = (
        "import sys, time; from daemon.parse import ParserProcess; p = ParserProcess(); p.parse(b'x', 'a.txt');"
        "print(p._idle._process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)  # as if it hung: it cannot notice that the socket closes
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
