"""Bytes -> text: which encoding a file is in, and whether it is text at all."""

from __future__ import annotations

import codecs
import re

from store.errors import ParseError

_MARKS = (  # the longer mark first: UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16
_CONTROLS = bytes(range(9)) + bytes(range(14, 27)) + b"\x1c\x1d\x1e\x1f"  # those that text files do not hold


def decode(data: bytes) -> str:
    """The text of a file in UTF-8, UTF-16, UTF-32 or a legacy encoding, with `\\n` line ends. ParseError if binary."""
    return _decode(data).replace("\r\n", "\n").replace("\r", "\n")


def _decode(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if b"\0" in data[:_SAMPLE]:
        return _without_mark(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return _legacy(data)
    if _is_binary(data):
        raise ParseError("binary, not text")
    return text


def _without_mark(data: bytes) -> str:
    """UTF-16 without a byte order mark: every other byte of Western text is NUL."""
    sample = data[:_SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    if max(even, odd) > 0.3 * (len(sample) / 2) and min(even, odd) < 0.05 * (len(sample) / 2):
        try:
            text = data[: len(data) // 2 * 2].decode(encoding)
        except UnicodeDecodeError:
            pass
        else:
            if not _is_binary(text[:_SAMPLE].encode("utf-8")):
                return text
    raise ParseError("binary, not text")


def _is_binary(data: bytes) -> bool:
    sample = data[:_SAMPLE]
    return len(sample) - len(sample.translate(None, _CONTROLS)) > len(sample) // 100


def _legacy(data: bytes) -> str:
    if _is_binary(data):
        raise ParseError("binary, not text")
    text = data.decode("utf-8", "replace")
    damaged, foreign = text.count("\ufffd"), sum(map(len, re.findall(r"[^\x00-\x7f]+", text)))
    if damaged * 10 <= foreign:
        return text  # UTF-8 with a few broken characters, such as a cut-off end
    sample = data[:_SAMPLE]
    runs = re.findall(rb"[\x80-\xff]+", sample)
    high = sum(map(len, runs))
    # in Western text single accented letters stand among ASCII ones; other alphabets fill whole words
    if high <= 2 * len(runs) and high <= sum(map(len, re.findall(rb"[A-Za-z]+", sample))):
        undefined = re.search(rb"[\x81\x8d\x8f\x90\x9d]", data)
        return data.decode("latin-1" if undefined else "cp1252")
    import charset_normalizer

    best = charset_normalizer.from_bytes(sample).best()
    if best is None:
        raise ParseError("text in an encoding that memex does not recognise")
    return data.decode(best.encoding, "replace")
