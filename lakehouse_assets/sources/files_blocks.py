"""Text files as blocks of bytes: UTF-8, one kind of line end, in bounded memory.

What belongs here: decoding, byte order marks, line ends. What does not: what a line means.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from pyarrow import ArrowException

from lakehouse_assets.errors import SourceUnreadable

BLOCK_BYTES = 4 << 20
"""How much of a file is read at once."""
RECORD_BYTES = 16 << 20
"""The longest record; a longer one is taken for a quote that was never closed."""


class Stream(Protocol):
    """What is read here: bytes, some at a time."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def chunks(stream: Stream, encoding: str, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """The file as UTF-8 without byte order mark, every line end (CRLF, CR) as LF, at most `size` bytes at a time.

    Bytes that are not UTF-8 in a file that is declared so are passed on: the record that holds them is judged later.

    Raises:
        UnicodeDecodeError: bytes have no meaning in another `encoding`.
    """
    first, held = True, b""
    for part, last in with_last(_utf8(stream, encoding, size)):
        chunk = held + part
        if first and len(chunk) < len(codecs.BOM_UTF8) and not last:
            held = chunk
            continue
        chunk, first = chunk.removeprefix(codecs.BOM_UTF8) if first else chunk, False
        held = b"\r" if chunk.endswith(b"\r") and not last else b""
        chunk = chunk[: len(chunk) - len(held)]
        if chunk:
            yield chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in chunk else chunk


def _utf8(stream: Stream, encoding: str, size: int) -> Iterator[bytes]:
    if encoding in ("utf-8", "utf-8-sig", "ascii"):
        while chunk := stream.read(size):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    while chunk := stream.read(size):
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
    """Bytes as text for people; bytes that are not UTF-8 as their hexadecimal escape."""
    return text.decode("utf-8", "backslashreplace")


@contextmanager
def text_faults(where: str, encoding: str) -> Iterator[None]:
    """What is wrong with a text file as a whole becomes an error that names it.

    Raises:
        SourceUnreadable: bytes that `encoding` does not have, or a record without end.
    """
    try:
        yield
    except UnicodeError as error:
        fix = "correct the option 'encoding', or mend the file"
        raise SourceUnreadable(f"{where} is not text in {encoding}: {error}", fix=fix) from error
    except ArrowException:
        raise
    except ValueError as error:
        raise SourceUnreadable(f"{where}: {error}", fix="mend the file (see the options quote and escape)") from error
