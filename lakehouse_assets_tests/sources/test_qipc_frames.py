"""Headers and compression: what a frame says of itself, and that a damaged one is an error."""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.errors import LakehouseError, SourceUnreadable
from lakehouse_assets.sources import qipc
from lakehouse_assets.sources.qipc_frames import head
from lakehouse_assets_tests.sources.qipc_lab import Q

LITTLE = Q()


def plain(rows: int = 2000) -> bytes:
    """A frame that compresses: sorted times, few symbols, prices of two decimals."""
    at = np.arange(rows)
    table = {
        "time": at * 1000,
        "sym": [f"S{i % 5}" for i in at],
        "price": 100 + at % 50 / 100,
        "text": ["ab" * 40] * rows,
    }
    return b"".join(qipc.encode(pa.table(table)))


def wide(compressed: bytes) -> bytes:
    """The same frame with an inflated length of 8 bytes."""
    size, *_ = struct.unpack_from("<I", compressed, 8)
    return head(compressed[1], len(compressed) + 4, 2) + struct.pack("<Q", size) + compressed[12:]


def big(compressed: bytes) -> bytes:
    """The compressed frame as a big-endian process sends it: its lengths the other way round."""
    length, size = struct.unpack_from("<II", compressed, 4)
    return b"\0" + compressed[1:4] + struct.pack(">II", length, size) + compressed[12:]


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("0102000011000000", qipc.Header(2, 0, 17)),
        ("0001000000000011", qipc.Header(1, 0, 17, big_endian=True)),
        ("0100010011000000", qipc.Header(0, 1, 17)),
        ("0102020111000000", qipc.Header(2, 2, 2**32 + 17)),
        ("01020003ffffffff", qipc.Header(2, 0, 4 * 2**32 - 1)),
    ],
)
def test_what_a_header_says(first: str, expected: qipc.Header) -> None:
    """Byte order, kind, compression, and 40 bits of length: byte 3 holds the upper 8."""
    assert qipc.header(bytes.fromhex(first)) == expected


@pytest.mark.parametrize(
    "first",
    [
        "",
        "01020000110000",
        "0202000011000000",
        "0103000011000000",
        "0102030011000000",
        "0102000008000000",
        "48545450312e3120",
    ],
)
def test_what_is_no_header(first: str) -> None:
    """Too short, or a byte order, kind, compression or length that q does not have; an HTTP server, for one."""
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        qipc.header(bytes.fromhex(first))


def test_lengths_of_40_bits_are_written() -> None:
    """A frame over 4 GB says so in byte 3; one of a terabyte is refused."""
    assert qipc.header(head(2, 2**33 + 5)).length == 2**33 + 5
    with pytest.raises(SourceUnreadable):
        head(2, 2**40)


def test_compressed_frames_inflate_to_what_they_were() -> None:
    """Byte for byte, with a short and a long inflated length, and decoded alike."""
    frame = plain()
    compressed = qipc.compress(frame)
    assert len(compressed) < len(frame) // 2
    assert qipc.header(compressed).compressed == 1
    for one in (compressed, wide(compressed)):
        assert bytes(qipc.decompress(one)) == frame
        assert qipc.decode(one).equals(qipc.decode(frame))


def test_a_big_endian_compressed_frame() -> None:
    """Both lengths and all numbers inside are big-endian."""
    q = Q(">")
    frame = q.frame(q.table([("c", q.vector(7, "q", [7] * 500 + [8]))]))
    little = head(frame[1], len(frame)) + frame[8:]
    compressed = big(qipc.compress(little))
    assert bytes(qipc.decompress(compressed)) == frame
    assert qipc.decode(compressed).column("c").to_pylist() == [7] * 500 + [8]


def test_what_does_not_compress_stays_plain() -> None:
    """As q does: a frame that would not become half as long is sent as it is."""
    frame = b"".join(qipc.encode(pa.array(np.random.default_rng(1).random(500))))
    assert qipc.compress(frame) == frame
    assert qipc.decompress(frame) == frame


@settings(max_examples=100, deadline=None)
@given(body=st.lists(st.binary(max_size=6), max_size=8), times=st.integers(1, 80), tail=st.binary(max_size=9))
def test_compression_keeps_any_bytes(body: list[bytes], times: int, tail: bytes) -> None:
    """Runs, repetitions of any period, and copies that run into themselves."""
    message = b"".join(body) * times + tail or b"\0"
    frame = LITTLE.frame(message)
    assert bytes(qipc.decompress(qipc.compress(frame))) == frame


def test_a_compressed_frame_cut_at_any_byte_is_an_error() -> None:
    """Whether or not its header was mended to the shorter length."""
    compressed = qipc.compress(plain(300))
    for length in range(len(compressed)):
        with pytest.raises(SourceUnreadable):
            qipc.decode(compressed[:length])
        with pytest.raises(SourceUnreadable):
            qipc.decode(compressed[:4] + struct.pack("<I", length) + compressed[8:length])


def test_a_compressed_frame_that_goes_on_is_an_error() -> None:
    """Bytes behind the stream are not passed over."""
    compressed = qipc.compress(plain(300)) + b"\0\0"
    with pytest.raises(SourceUnreadable, match="does not give its"):
        qipc.decompress(compressed[:4] + struct.pack("<I", len(compressed)) + compressed[8:])


def test_a_copy_of_what_was_not_said_is_an_error() -> None:
    """The first step cannot be a copy."""
    with pytest.raises(SourceUnreadable, match="copies what it has not said"):
        qipc.decompress(head(2, 16, 1) + struct.pack("<I", 20) + bytes((1, 0, 10, 0)))


def test_a_frame_that_says_it_is_huge_takes_no_memory() -> None:
    """A few bytes cannot inflate to gigabytes: refused before any is allocated."""
    compressed = qipc.compress(plain(300))
    for size in (2**31, 5, 2**32 - 1):
        with pytest.raises(SourceUnreadable, match="compressed bytes that would be"):
            qipc.decode(compressed[:8] + struct.pack("<I", size) + compressed[12:])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_changed_compressed_frame_gives_a_value_or_our_error(data: st.DataObject) -> None:
    """Bytes that were changed, cut or added never give another exception, a hang or a crash."""
    compressed = bytearray(qipc.compress(plain(100)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(8, max(8, len(compressed) - 1)))
        compressed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=4))
    compressed[4:8] = struct.pack("<I", len(compressed))
    try:
        qipc.decode(bytes(compressed))
    except LakehouseError:
        return
