"""Formats that are packed: what they may unpack to is bounded before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
import zlib

from store.errors import ParseError

MOST_UNPACKED = 256 << 20
_MOST_MEMBERS = 20_000


def unzip(data: bytes) -> zipfile.ZipFile:
    """An opened zip file. Reading a member never gives more bytes than the size declared, which is bounded here."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if len(members) > _MOST_MEMBERS or unpacked > MOST_UNPACKED:
        raise ParseError(
            f"a zip bomb? {len(members):,} members of together {unpacked >> 20:,} MB;"
            f" the limits are {_MOST_MEMBERS:,} and {MOST_UNPACKED >> 20} MB"
        )
    return archive


def gunzip(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    unpacked = unpacker.decompress(data, MOST_UNPACKED)
    if unpacker.unconsumed_tail:
        raise ParseError(f"a gzip bomb? it unpacks to more than {MOST_UNPACKED >> 20} MB")
    if not unpacker.eof:
        raise ParseError("a gzip file that is cut off")
    return unpacked
