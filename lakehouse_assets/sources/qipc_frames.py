"""The frame around a q message: its header, and the compression of its body.

A frame is 8 bytes of header (byte order; kind; compression; bits 32 to 39 of the length; the length), then the message.
Compressed, the length of the frame when it is inflated follows (4 bytes; 8 where byte 2 is 2), then the stream.

What belongs here: headers, deflating, inflating. What does not: what a message means (`qipc_reader.py`).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np

from lakehouse_assets.errors import SourceUnreadable

HEADER = 8
"""Bytes of a header."""
LARGE = 1 << 20
"""Compressed frames of more bytes are inflated by PyKX where it is installed."""
_MOST = 121
"""No stream inflates to more than this many times its length: 17 bytes with 8 copies give 8 times 257."""
_BLOCK = 1 << 16


class Kind(IntEnum):
    """What a frame is for."""

    ASYNC = 0
    SYNC = 1
    RESPONSE = 2


@dataclass(frozen=True)
class Header:
    """What the first 8 bytes of a frame say.

    Attributes:
        kind: 0 asynchronous, 1 synchronous, 2 response.
        compressed: 0 plain, 1 compressed, 2 compressed with an inflated length of 8 bytes.
        length: bytes of the whole frame, with its header.
        big_endian: whether numbers have their most significant byte first.
    """

    kind: int
    compressed: int
    length: int
    big_endian: bool = False


def header(first: bytes | bytearray | memoryview) -> Header:
    """Read the header that a frame starts with.

    Raises:
        SourceUnreadable: fewer than 8 bytes, or no header of a q frame.
    """
    if len(first) < HEADER:
        raise malformed(f"a frame of {len(first)} bytes: a header has {HEADER}")
    order, kind, compressed, high = first[0], first[1], first[2], first[3]
    low = int.from_bytes(first[4:8], "little" if order else "big")
    length = low | high << 32
    if order > 1 or kind > Kind.RESPONSE or compressed > 2 or length < HEADER + (5 if compressed else 1):
        raise malformed(f"a header that no q frame has: {bytes(first[:HEADER]).hex()}")
    return Header(kind, compressed, length, big_endian=not order)


def head(kind: int, length: int, compressed: int = 0) -> bytes:
    """The header of a little-endian frame of `length` bytes, itself included."""
    if length >> 40:
        raise malformed(f"a frame of {length} bytes: q has none of 1 TB")
    return struct.pack("<BBBBI", 1, kind, compressed, length >> 32, length & 0xFFFFFFFF)


def malformed(problem: str) -> SourceUnreadable:
    """The error of bytes that are no q frame."""
    return SourceUnreadable(
        f"the kdb server's answer cannot be read: {problem}",
        fault="frame",
        fix="see that the address is that of a kdb+ process, and that nothing between alters what it sends",
    )


def decompress(frame: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
    """The plain frame of a compressed one; a plain one as it is.

    Large ones are inflated by PyKX, where it is installed; it writes little-endian, whatever the frame was.

    Raises:
        SourceUnreadable: the stream does not give the frame that it announces.
    """
    said = header(frame)
    if not said.compressed:
        return frame
    start = HEADER + (8 if said.compressed == 2 else 4)
    if len(frame) != said.length or len(frame) <= start:
        raise malformed(f"a compressed frame of {len(frame)} bytes whose header says {said.length}")
    order: Literal["big", "little"] = "big" if said.big_endian else "little"
    size = int.from_bytes(frame[HEADER:start], order)
    if size <= HEADER or size >> 40 or size - HEADER > (len(frame) - start) * _MOST:
        raise malformed(f"{len(frame)} compressed bytes that would be {size}")
    source = bytes(frame)
    if len(source) >= LARGE and (made := _inflated_by_pykx(source)) is not None:
        return made
    first = bytes((source[0], source[1], 0, size >> 32)) + (size & 0xFFFFFFFF).to_bytes(4, order)
    try:
        return _inflate(source, start, size, first)
    except IndexError:
        raise malformed("a compressed frame that ends early") from None


def _inflated_by_pykx(frame: bytes) -> bytes | None:
    from lakehouse_assets.sources import kdb_pykx  # it imports the codec

    return kdb_pykx.inflate(frame) if kdb_pykx.installed() else None


def _inflate(source: bytes, at: int, size: int, first: bytes) -> bytes | bytearray:
    """The classic algorithm. `seen` maps the exclusive or of two neighbours to where they were seen last.

    Eight steps stand behind a byte of flags: one byte as it is, or a pair that was seen and how many bytes it goes on.
    A pair counts as seen once both bytes are made; of copied bytes only the first pair does.
    """
    made = bytearray(size)
    made[:HEADER] = first
    pairs = _pairs(source)
    seen = [0] * 256
    to = copied = HEADER
    while to < size:
        runs = _RUNS[source[at]]
        at += 1
        for run in runs:
            if to >= size:
                break
            if run:
                run = min(run, size - to)
                made[to : to + run] = source[at : at + run]
                if to > copied:
                    seen[made[to - 1] ^ made[to]] = to - 1
                for place, pair in enumerate(pairs[at : at + run - 1], to):
                    seen[pair] = place
                at += run
                to += run
            else:
                pair = source[at]
                origin, more = seen[pair], source[at + 1] + 2
                made[to : to + more] = _copy(made, origin, to, more)
                if to > copied:
                    seen[made[to - 1] ^ made[to]] = to - 1
                seen[pair] = to
                at += 2
                to = copied = to + more
    if at != len(source) or len(made) != size:
        raise malformed(f"a compressed frame whose stream does not give its {size} bytes")
    return made


def _copy(made: bytearray, origin: int, to: int, more: int) -> bytes | bytearray:
    """`more` bytes from `origin` on, which may run into those that are made of them."""
    if not origin:
        raise malformed("a compressed frame that copies what it has not said")
    if origin + more <= to:
        return made[origin : origin + more]
    return (made[origin:to] * (more // (to - origin) + 1))[:more]


def _pairs(source: bytes) -> bytes:
    """The exclusive or of each byte and the next."""
    given = np.frombuffer(source, np.uint8)
    return (given[:-1] ^ given[1:]).tobytes()


def _runs(flags: int) -> tuple[int, ...]:
    """What the eight steps of a byte of flags are: how many bytes as they are, 0 for a copy."""
    runs: list[int] = []
    for bit in range(8):
        if flags >> bit & 1:
            runs.append(0)
        elif runs and runs[-1]:
            runs[-1] += 1
        else:
            runs.append(1)
    return tuple(runs)


_RUNS = tuple(_runs(flags) for flags in range(256))


def compress(frame: bytes | bytearray | memoryview) -> bytes:
    """The compressed frame of a plain little-endian one; the plain one where it would not become half as long.

    Slow (10 s for 60 MB): for frames of some hundred KB at most.
    """
    plain = bytes(frame)
    total, half = len(plain), len(plain) // 2
    made = bytearray(half + 40)
    flag_at = to = 12
    bit = flags = before = pending = 0
    seen = [0] * 256
    at = HEADER
    while at < total:
        if bit in (0, 256):
            if to > half - 17:
                return plain
            bit, made[flag_at], flag_at, flags = 1, flags, to, 0
            to += 1
        origin, pair, fresh = 0, 0, at > total - 3
        if not fresh:
            pair = plain[at] ^ plain[at + 1]
            origin = seen[pair]
            fresh = origin == 0 or plain[at] != plain[origin]
        if pending:
            seen[before] = pending
            pending = 0
        if fresh:
            before, pending = pair, at
            made[to] = plain[at]
            to += 1
            at += 1
        else:
            seen[pair] = at
            flags |= bit
            more = _run(plain, origin + 2, at + 2, min(at + 257, total))
            made[to], made[to + 1] = pair, more
            to += 2
            at += 2 + more
        bit <<= 1
    made[flag_at] = flags
    made[:12] = head(plain[1], to, 1) + struct.pack("<I", total)
    return bytes(made[:to])


def _run(plain: bytes, origin: int, at: int, end: int) -> int:
    """How many bytes at `at` repeat those at `origin`."""
    start = at
    while at < end and plain[origin] == plain[at]:
        at += 1
        origin += 1
    return at - start
