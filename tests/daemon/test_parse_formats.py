"""Each format gives its title, its heading trails, its pages and all its text."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from email.message import EmailMessage

import pytest

from daemon.parsers import FORMATS, Parsed, parse_bytes
from store.errors import ParseError
from store.types import Section


def trails(parsed: Parsed) -> list[tuple[str, ...]]:
    return [section.headings for section in parsed.sections]


def all_text(parsed: Parsed) -> str:
    return "\n".join(section.text for section in parsed.sections)


def test_markdown_headings_fences_and_front_matter():
    source = b"""---
title: "The Manual"
tags: [ops, "v2"]
domain: manuals
---
Before.

# One #

```python
# not a heading
```

Two
---
text of two
### Deep
deep text

| a | b |
|---|---|
| 1 | 2 |

## Empty
"""
    parsed = parse_bytes(source, "m.md")
    assert parsed.title == "The Manual"
    assert parsed.metadata == {"tags": "ops,v2", "domain": "manuals"}
    assert trails(parsed) == [(), ("One",), ("One", "Two"), ("One", "Two", "Deep"), ("One",)]
    assert "# not a heading" in parsed.sections[1].text
    assert "| 1 | 2 |" in parsed.sections[3].text
    assert parsed.sections[4].text == "Empty"


def test_markdown_front_matter_list_and_a_rule_that_is_no_front_matter():
    parsed = parse_bytes(b"---\ntags:\n  - a\n  - b\n---\nx", "m.md")
    assert parsed.metadata["tags"] == "a,b"
    assert "text" in all_text(parse_bytes(b"---\n\ntext\n\n---\nmore", "m.md"))
    assert parse_bytes(b"# T\n\npara\nstill para\n---\nafter", "m.md").sections[0].headings == ("T",)


def test_restructured_text_levels_follow_the_order_of_adornments():
    source = b"=====\nTitle\n=====\n\nintro\n\nPart\n====\n\npart\n\nSub\n---\n\nsub\n\nPart 2\n======\n\nend ----\n"
    parsed = parse_bytes(source, "a.rst")
    assert parsed.title == "Title"
    assert trails(parsed) == [("Title",), ("Title", "Part"), ("Title", "Part", "Sub"), ("Title", "Part 2")]
    assert parse_bytes(source, "a.rst.txt") == parsed


def test_html_keeps_what_a_reader_sees():
    source = b"""<!doctype html><html><head><title>Page &amp; more</title><style>.x{}</style></head><body>
    <nav>menu</nav><script>alert(1)</script><h1>Top</h1><p>One   <b>bold</b> &lt;tag&gt;</p>
    <h2>Code</h2><pre>a\n  b</pre><ul><li>first</li><li>second</li></ul><template>no</template>
    <table><tr><th>k</th><td>v</td></tr></table><p hidden>secret</p></body></html>"""
    parsed = parse_bytes(source, "p.html")
    assert parsed.title == "Page & more"
    assert trails(parsed) == [("Top",), ("Top", "Code")]
    assert parsed.sections[0].text == "One bold <tag>"
    assert "a\n  b" in parsed.sections[1].text
    assert "- first" in parsed.sections[1].text
    for unseen in ("menu", "alert", ".x", "secret", "no\n"):
        assert unseen not in all_text(parsed)
    assert parse_bytes(source, "page") == parsed


def test_python_symbols():
    source = b'''"""Doc."""
import os

@decorated
class Greeter:
    """Greets."""

    # says hello
    def hello(self):
        def inner():
            pass

def main() -> None:
    pass

if __name__ == "__main__":
    main()
'''
    parsed = parse_bytes(source, "a.py")
    assert trails(parsed) == [(), ("Greeter",), ("Greeter", "hello"), ("main",), ()]
    assert parsed.sections[1].text.startswith("@decorated")
    assert parsed.sections[2].text.startswith("    # says hello")


@pytest.mark.parametrize(
    ("name", "source", "symbols"),
    [
        ("a.go", "package a\n\nfunc (s *Server) Serve(x int) error {\n\treturn nil\n}\n", ["Serve"]),
        ("a.rs", "pub struct P {\n    x: i32,\n}\n\nimpl P {\n    pub fn new() -> P {\n    }\n}\n", ["P", "P", "new"]),
        ("a.js", "export class A {\n}\nexport const f = (x) => {\n}\nasync function g() {\n}\n", ["A", "f", "g"]),
        ("a.c", "#include <x.h>\nstatic int add(int a, int b)\n{\n    return a;\n}\n", ["add"]),
        ("A.java", "public class A {\n    public static void main(String[] args) {\n    }\n}\n", ["A", "main"]),
        ("a.sql", "CREATE TABLE IF NOT EXISTS users (\n  id int\n);\n", ["users"]),
        ("a.sh", "#!/bin/sh\nrun() {\n  echo\n}\n", ["run"]),
    ],
)
def test_symbols_of_other_languages(name, source, symbols):
    parsed = parse_bytes(source.encode(), name)
    assert [section.headings[-1] for section in parsed.sections if section.headings] == symbols
    assert "".join(all_text(parsed).split()) == "".join(source.split())


def test_manual_page():
    source = b""".\\" comment
.TH LS 1 "May"
.SH NAME
ls \\- list \\fBfiles\\fR
.SH "SEE ALSO"
.SS Others
.BR dir (1)
"""
    for data, name in ((source, "ls.1"), (gzip.compress(source), "ls.1.gz")):
        parsed = parse_bytes(data, name)
        assert parsed.title == "ls"
        assert parsed.sections[0] == Section("ls - list files", ("Name",))
        assert parsed.sections[1] == Section("dir (1)", ("See also", "Others"))


def test_tables_name_their_columns():
    parsed = parse_bytes(b"name,port\nweb,80\ndb,5432\n", "a.csv")
    assert all_text(parsed) == "name; port\n\nname: web; port: 80\n\nname: db; port: 5432"
    assert all_text(parse_bytes(b"1\t2\n3\t4\n", "a.tsv")) == "1; 2\n\n3; 4"


def test_json_and_json_lines():
    parsed = parse_bytes(b'{"server": {"port": 80, "tags": ["a", "b"]}, "users": [{"n": 1}, {"n": null}]}', "a.json")
    assert parsed.sections == (
        Section("port: 80\ntags: a, b", ("server",)),
        Section("n: 1\nn: null", ("users",)),
    )
    assert all_text(parse_bytes(b'{"a": 1}\nnot json\n{"a": 2}\n', "a.jsonl")).strip() == "a: 1\n\nnot json\n\na: 2"
    assert all_text(parse_bytes(b"{ // comment\n}", "a.json")) == "{ // comment\n}"


def test_notebook():
    cells = [
        {"cell_type": "markdown", "source": ["# Study\n", "We look."]},
        {
            "cell_type": "code",
            "source": "# a comment\nprint(1)",
            "outputs": [{"output_type": "stream", "text": ["1\n"]}],
        },
    ]
    parsed = parse_bytes(json.dumps({"nbformat": 4, "cells": cells}).encode(), "n.ipynb")
    assert parsed.title == "Study"
    assert trails(parsed) == [("Study",)]
    assert "# a comment" in all_text(parsed)


def test_mail():
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.org", "b@example.org", "Grüße"
    mail.set_content("Plain text, naïve.")
    mail.add_alternative("<p>rich</p>", subtype="html")
    mail.add_attachment(b"123", maintype="application", subtype="pdf", filename="offer.pdf")
    parsed = parse_bytes(bytes(mail), "m.eml")
    assert parsed.title == "Grüße"
    assert "Plain text, naïve." in all_text(parsed)
    assert "From: a@example.org" in all_text(parsed)
    assert "Attached: offer.pdf" in all_text(parsed)


def docx_bytes() -> bytes:
    import docx

    document = docx.Document()
    document.core_properties.title = "Plan"
    document.add_heading("First", 1)
    document.add_paragraph("Some text.")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "left", "right"
    document.add_heading("Second", 2)
    document.add_paragraph("More.")
    return saved(document)


def pptx_bytes() -> bytes:
    import pptx

    deck = pptx.Presentation()
    for title, body in (("Start", "Hello"), ("End", "Bye")):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text, slide.placeholders[1].text = title, body
    slide.notes_slide.notes_text_frame.text = "say it slowly"
    return saved(deck)


def xlsx_bytes() -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "Hosts"
    book.active.append(["name", "port"])
    book.active.append(["web", 80])
    return saved(book)


def epub_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        archive.writestr(
            "META-INF/container.xml",
            '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="o/p.opf"/></rootfiles></container>',
        )
        archive.writestr(
            "o/p.opf",
            '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/"><metadata>'
            '<dc:title>A Book</dc:title></metadata><manifest><item id="b" href="two.xhtml"/>'
            '<item id="a" href="one%20.xhtml"/></manifest><spine><itemref idref="a"/><itemref idref="b"/></spine>'
            "</package>",
        )
        archive.writestr("o/one .xhtml", "<html><body><h1>One</h1><p>first</p></body></html>")
        archive.writestr("o/two.xhtml", "<html><body><h1>Two</h1><p>second</p></body></html>")
    return buffer.getvalue()


def saved(document: object) -> bytes:
    buffer = io.BytesIO()
    document.save(buffer)  # type: ignore[attr-defined]
    return buffer.getvalue()


def pdf_bytes(pages: int = 2, password: str | None = None) -> bytes:
    import pypdf
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for number in range(1, pages + 1):
        page = writer.add_blank_page(300, 300)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F"): font})}
        )
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F 12 Tf 20 200 Td (Text of page {number}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
    writer.add_metadata({"/Title": "Paper"})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["d.docx", "d"])
def test_docx(name):
    parsed = parse_bytes(docx_bytes(), name)
    assert parsed.title == "Plan"
    assert trails(parsed) == [("First",), ("First", "Second")]
    assert "left | right" in parsed.sections[0].text


@pytest.mark.parametrize("name", ["d.pptx", "d"])
def test_pptx(name):
    parsed = parse_bytes(pptx_bytes(), name)
    assert [(section.page, section.headings) for section in parsed.sections] == [(1, ("Start",)), (2, ("End",))]
    assert parsed.sections[1].text == "Bye\n\nsay it slowly"


@pytest.mark.parametrize("name", ["d.xlsx", "d"])
def test_xlsx(name):
    assert parse_bytes(xlsx_bytes(), name).sections == (Section("name; port\n\nname: web; port: 80", ("Hosts",)),)


@pytest.mark.parametrize("name", ["d.epub", "d"])
def test_epub(name):
    parsed = parse_bytes(epub_bytes(), name)
    assert parsed.title == "A Book"
    assert parsed.sections == (Section("first", ("One",)), Section("second", ("Two",)))


@pytest.mark.parametrize("name", ["d.pdf", "d"])
def test_pdf(name):
    parsed = parse_bytes(pdf_bytes(), name)
    assert parsed.title == "Paper"
    assert [(section.text, section.page) for section in parsed.sections] == [
        ("Text of page 1", 1),
        ("Text of page 2", 2),
    ]


@pytest.mark.parametrize(
    "data",
    [
        "Grüße, naïve café.".encode("utf-8-sig"),
        "Grüße, naïve café.".encode("utf-16"),
        "Grüße, naïve café.".encode("utf-16-le"),
        "Grüße, naïve café.".encode("utf-16-be"),
        b"\xfe\xff" + "Grüße, naïve café.".encode("utf-16-be"),
        "Grüße, naïve café.".encode("utf-32"),
        "Grüße, naïve café.".encode("latin-1"),
        "Grüße, naïve café.".encode("cp1252"),
    ],
)
def test_encodings(data):
    assert all_text(parse_bytes(data, "a.txt")) == "Grüße, naïve café."


def test_other_alphabets_and_broken_utf8():
    russian = "Это обычный русский текст, который записан в старой кодировке. " * 5
    assert all_text(parse_bytes(russian.encode("cp1251"), "a.txt")) == russian
    cut = ("Ελληνικά κείμενα είναι εδώ. " * 20).encode()[:-3]
    assert all_text(parse_bytes(cut, "a.txt")).startswith("Ελληνικά κείμενα")
    page = '<meta charset="iso-8859-1"><p>café</p>'.encode("latin-1")
    assert all_text(parse_bytes(page, "a.html")) == "café"


def test_empty_and_unknown_files():
    for suffix in FORMATS:
        assert parse_bytes(b"", f"a.{suffix}") == Parsed(f"a.{suffix}", ())
    assert parse_bytes(b"just text", "README").sections == (Section("just text"),)
    with pytest.raises(ParseError, match="not a format that memex reads"):
        parse_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.png")


def test_what_comes_out_is_valid_text():
    parsed = parse_bytes(b'{"k\\ud800": "a\\u0000b\\udfff"}', "a.json")
    assert all_text(parsed).encode()
    assert "\0" not in all_text(parsed)
    assert parsed.sections[0].headings[0].encode()
