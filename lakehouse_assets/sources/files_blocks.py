"""Text files as blocks of bytes: UTF-8, one kind of line end, in bounded memory.

What belongs here: decoding, byte order marks, line ends. What does not: what a line means.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Protocol

BLOCK_BYTES = 4 << 20
"""How much of a file is read at once."""
RECORD_BYTES = 16 << 20
"""The longest record; a longer one is taken for a quote that was never closed."""


class Stream(Protocol):
    """What is read here: bytes, some at a time."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def chunks(stream: Stream, encoding: str) -> Iterator[bytes]:
    """The file as UTF-8 without byte order mark, every line end (`\\r\\n`, `\\r`) as `\\n`.

    Bytes that are not UTF-8 in a file that is declared so are passed on: the record that holds them is judged later.

    Raises:
        UnicodeDecodeError: bytes have no meaning in another `encoding`.
    """
    first, held = True, b""
    for chunk in _utf8(stream, encoding):
        if first:
            chunk = chunk.removeprefix(codecs.BOM_UTF8)
            first = False
        chunk, held = held + chunk, b""
        if chunk.endswith(b"\r"):
            chunk, held = chunk[:-1], b"\r"
        yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk
    if held:
        yield b"\n"


def _utf8(stream: Stream, encoding: str) -> Iterator[bytes]:
    if encoding in ("utf-8", "utf-8-sig", "ascii"):
        while chunk := stream.read(BLOCK_BYTES):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    while chunk := stream.read(BLOCK_BYTES):
        if text := decoder.decode(chunk):
            yield text.encode()
    if text := decoder.decode(b"", final=True):
        yield text.encode()


def with_last(parts: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each part, and whether it is the last one; an empty last one where there is none."""
    before = b""
    for part in parts:
        if before:
            yield before, False
        before = part
    yield before, True


def line_blocks(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Blocks of whole lines; only the last may lack its line end.

    Raises:
        ValueError: a line is longer than `RECORD_BYTES`.
    """
    rest = b""
    for part, last in with_last(parts):
        block = rest + part
        end = len(block) if last else block.rfind(b"\n") + 1
        rest = block[end:]
        if len(rest) > RECORD_BYTES:
            raise ValueError(f"a line is longer than {RECORD_BYTES >> 20} MiB")
        if end:
            yield block[:end]


def is_utf8(text: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def shown(text: bytes) -> str:
    """Bytes as text for people; bytes that are not UTF-8 as `\\xff`."""
    return text.decode("utf-8", "backslashreplace")
