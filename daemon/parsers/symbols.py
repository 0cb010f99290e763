"""Source code: its symbols are its headings, found by line patterns, so that code with errors in it reads as well."""

from __future__ import annotations

import re

from daemon.parsers.encoding import decode
from daemon.parsers.outline import Outline, Parsed

_MODIFIERS = (
    r"(?:(?:export|default|declare|public|private|protected|internal|static|final|abstract|async|sealed|open"
    r"|pub(?:\([a-z ]*\))?|unsafe|partial|override|virtual|inline|extern|data|suspend|mutating)[ \t]+)*"
)
_TYPE = re.compile(
    rf"([ \t]*){_MODIFIERS}(?:class|interface|struct|enum|trait|impl(?:<[^>]*>)?|module|namespace|object|protocol"
    r"|extension|record|union|type|mod)[ \t]+(?:class[ \t]+|struct[ \t]+)?([\w$]+(?:(?:::|\.)[\w$]+)*)"
)
_FUNCTION = re.compile(
    rf"([ \t]*){_MODIFIERS}(?:(?:def|function\*?|fn|func|fun|sub|proc|procedure)[ \t]+(?:\([^)]*\)[ \t]*)?([\w.:$?!]+)"
    r"|(?:const|let|var)[ \t]+([\w$]+)[ \t]*=[ \t]*(?:async[ \t]*)?(?:function\b|\([^()]*\)[ \t]*=>|\w+[ \t]*=>)"
    r"|([\w$-]+)[ \t]*\(\)[ \t]*\{)"
)
# a C-like definition: words for the return type, a name, arguments, and no semicolon
_C_LIKE = re.compile(
    r"([ \t]*)(?!(?:return|else|if|for|while|switch|new|throw|case|do|using|typedef|delete|await|yield)\b)"
    r"[A-Za-z_][\w<>\[\],.&*:~ \t]*?[ \t*&]([A-Za-z_~][\w:~]*)[ \t]*\([^;{}=]*[),][ \t\w]*\{?[ \t]*$"
)
_SQL = re.compile(
    r"([ \t]*)create[ \t]+(?:or[ \t]+replace[ \t]+)?(?:(?:temp|temporary|unique|materialized)[ \t]+)*"
    r"(?:table|view|function|procedure|trigger|index|type|schema)[ \t]+(?:if[ \t]+not[ \t]+exists[ \t]+)?([\w.\"`]+)",
    re.IGNORECASE,
)
_ABOVE = re.compile(r"[ \t]*(?:@|#(?!include|define|if|else|endif|pragma)|//|/\*|\*|--)")  # decorators and comments
_CONTINUES = (
    "}",
    ")",
    "]",
    "{",
    "end",
    "else",
    "elif",
    "except",
    "finally",
    "catch",
    "#",
    "/",
    "*",
    '"',
    "'",
    "-",
    ":",
)
_LONGEST_LINE = 300  # a longer one is data, or minified


def code(data: bytes) -> Parsed:
    """Functions, types, and the functions inside types are sections; what lies outside of them has no heading."""
    outline = Outline()
    lines = decode(data).split("\n")
    symbols = _symbols(lines)
    for number, line in enumerate(lines):
        if number in symbols:
            outline.heading(*symbols[number])
        outline.text(line + "\n")
    return Parsed("", outline.sections())


def _symbols(lines: list[str]) -> dict[int, tuple[int, str]]:
    """Where sections begin: line number -> (level, name). An empty name ends the last symbol."""
    symbols: dict[int, tuple[int, str]] = {}
    in_type = inside = False  # in a type at the left margin, whose members are sections too; in any symbol
    for number, line in enumerate(lines):
        if not line or line.isspace() or len(line) > _LONGEST_LINE:
            continue
        at_margin = not line[0].isspace()
        member = in_type and len(line) - len(line.lstrip()) <= (1 if line[0] == "\t" else 4)
        if not (at_margin or member):
            continue
        a_type = _TYPE.match(line)
        match = a_type or _FUNCTION.match(line) or _C_LIKE.match(line) or _SQL.match(line)
        if match:
            name = next(group for group in match.groups()[1:] if group)
            symbols[_with_comments(lines, number, symbols)] = (1 if at_margin else 2, name)
            if at_margin:
                in_type, inside = a_type is not None, True
        elif at_margin and inside and not line.startswith(_CONTINUES):
            symbols[number] = (1, "")
            in_type = inside = False
    return symbols


def _with_comments(lines: list[str], number: int, symbols: dict[int, tuple[int, str]]) -> int:
    """The first line of the decorators and comments that stand directly above a symbol."""
    while number > 0 and number - 1 not in symbols and _ABOVE.match(lines[number - 1]):
        number -= 1
    return number
