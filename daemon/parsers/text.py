"""Plain text, Markdown, reStructuredText and manual pages."""

from __future__ import annotations

import re

from daemon.parsers.encoding import decode
from daemon.parsers.outline import Outline, Parsed
from store.types import Section


def plain(data: bytes) -> Parsed:
    return Parsed("", (Section(decode(data)),))


def markdown(data: bytes) -> Parsed:
    return markdown_text(decode(data))


_FENCE = re.compile(r" {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))??(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_NOT_A_TITLE = re.compile(r"[ \t]*$| {4}|\t| {0,3}(?:[-*+>|]|\d+[.)])")


def markdown_text(text: str) -> Parsed:
    metadata, text = front_matter(text)
    outline = Outline()
    fence = title = ""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        opened = _FENCE.match(line)
        if fence:
            if opened and opened[1].startswith(fence) and not line[opened.end() :].strip():
                fence = ""
        elif opened:
            fence = opened[1]
        elif atx := _ATX.match(line):
            title = title or (atx[2] or "" if len(atx[1]) == 1 else "")
            outline.heading(len(atx[1]), atx[2] or "")
            continue
        elif (
            number + 1 < len(lines)
            and line
            and (under := _UNDERLINE.match(lines[number + 1]))
            and _is_title(lines, number)
        ):
            level = 1 if under[1][0] == "=" else 2
            title = title or (line.strip() if level == 1 else "")
            outline.heading(level, line)
            lines[number + 1] = ""
            continue
        outline.text(line + "\n")
    return Parsed(metadata.pop("title", "") or title, outline.sections(), metadata)


def _is_title(lines: list[str], number: int) -> bool:
    """A line above `---` or `===` is a title unless it belongs to a paragraph, a list or a table."""
    return not _NOT_A_TITLE.match(lines[number]) and (number == 0 or not lines[number - 1].strip())


def front_matter(text: str) -> tuple[dict[str, str], str]:
    """The simple keys of a YAML block at the top, and the text below it. Lists become comma-joined."""
    found = re.match(r"---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|$)", text, re.DOTALL)
    if not found:
        return {}, text
    metadata: dict[str, str] = {}
    key = ""
    for line in found[1].split("\n"):
        if pair := re.match(r"([A-Za-z][\w-]*)[ \t]*:(?:[ \t]+(.*))?$", line):
            key = pair[1].lower()
            metadata[key] = _scalar(pair[2] or "")
        elif key and (item := re.match(r"[ \t]*-[ \t]+(.*)$", line)):
            metadata[key] = ",".join(filter(None, [metadata[key], _scalar(item[1])]))
        elif line.strip() and not line.startswith((" ", "\t", "#")):
            return {}, text  # a paragraph between two rules
    return {key: value for key, value in metadata.items() if value}, text[found.end() :]


def _scalar(value: str) -> str:
    value = value.strip()
    if value.startswith("[") and value.endswith("]"):
        return ",".join(_scalar(item) for item in value[1:-1].split(",") if item.strip())
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value


_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1*[ \t]*$")


def restructured(data: bytes) -> Parsed:
    """Titles are levelled by the order in which their adornments first appear, as docutils does."""
    outline = Outline()
    styles: list[str] = []
    title = ""
    lines = decode(data).split("\n")
    number = 0
    while number < len(lines):
        over = (
            _is_adornment(lines, number)
            and number + 2 < len(lines)
            and lines[number + 2].rstrip() == lines[number].rstrip()
        )
        if over and lines[number + 1].strip() and not _is_adornment(lines, number + 1):
            style, heading, taken = lines[number][0] * 2, lines[number + 1].strip(), 3
        elif _underlined(lines, number):
            style, heading, taken = lines[number + 1][0], lines[number].strip(), 2
        else:
            outline.text(lines[number] + "\n")
            number += 1
            continue
        if style not in styles:
            styles.append(style)
        title = title or heading
        outline.heading(styles.index(style) + 1, heading)
        number += taken
    return Parsed(title, outline.sections())


def _is_adornment(lines: list[str], number: int) -> bool:
    return len(lines[number]) >= 3 and _ADORNMENT.match(lines[number]) is not None


def _underlined(lines: list[str], number: int) -> bool:
    title = lines[number].rstrip()
    return (
        bool(title)
        and not title[0].isspace()
        and number + 1 < len(lines)
        and _is_adornment(lines, number + 1)
        and len(lines[number + 1].rstrip()) >= min(len(title), 4)
        and not _is_adornment(lines, number)
        and (number == 0 or not lines[number - 1].strip())
    )


_ESCAPES = (
    (re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[-+]?\d|\\[&|^/,:)%]|\\m\[[^\]]*\]"), ""),
    (re.compile(r"\\\((?:em|en)|\\-"), "-"),
    (re.compile(r"\\\((?:aq|cq|oq)|\\\[(?:aq|cq|oq)\]"), "'"),
    (re.compile(r"\\\((?:lq|rq|dq)|\\\[(?:lq|rq|dq)\]"), '"'),
    (re.compile(r"\\\(bu|\\\[bu\]"), "•"),
    (re.compile(r"\\e|\\\(rs"), r"\\"),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\\*?(?:\[[^\]]*\]|\(..)"), ""),
    (re.compile(r"\\\".*"), ""),
)
_BREAKS = {"PP", "P", "LP", "TP", "IP", "HP", "Pp", "It", "sp", "Bl", "El", "TQ"}
_HIDDEN = {
    "de",
    "ds",
    "nr",
    "if",
    "ie",
    "el",
    "so",
    "ad",
    "hy",
    "nh",
    "ft",
    "ne",
    "tr",
    "rm",
    "Dd",
    "Os",
    "TS",
    "TE",
    "ta",
    "ti",
    "in",
}


def manual(data: bytes) -> Parsed:
    """A manual page's source: macros out, `.SH` and `.SS` as headings. No macro is run."""
    outline = Outline()
    title = ""
    hidden = False
    for line in decode(data).split("\n"):
        if hidden:  # the body of a macro definition
            hidden = not line.startswith("..")
            continue
        request = re.match(r"[.'][ \t]*(\S*)[ \t]*(.*)$", line)
        if request is None:
            outline.text(_plain(line) + "\n")
            continue
        macro, rest = request[1], _plain(request[2].replace('"', ""))
        if macro in ("TH", "Dt"):
            title = title or " ".join(rest.split()[:1]).lower()
        elif macro in ("SH", "Sh", "SS", "Ss"):
            outline.heading(1 if macro in ("SH", "Sh") else 2, rest.capitalize() if rest.isupper() else rest)
        elif macro in _BREAKS:
            outline.text(f"\n{rest}\n")
        elif macro in ("de", "de1", "ig"):
            hidden = True
        elif macro not in _HIDDEN and not macro.startswith('\\"') and rest:
            outline.text(rest + "\n")
    return Parsed(title, outline.sections())


def _plain(line: str) -> str:
    if "\\" in line:
        for pattern, shown in _ESCAPES:
            line = pattern.sub(shown, line)
    return line
