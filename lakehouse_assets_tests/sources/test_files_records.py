"""CSV text is cut into the same records whatever the blocks, and what is no record is named."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakehouse_assets.sources.files_blocks import RECORD_BYTES, chunks, line_blocks
from lakehouse_assets.sources.files_records import Dialect

PLAIN = Dialect(",", '"', "\\", "", multi_line=False)
MULTI = Dialect(",", '"', "\\", "", multi_line=True)


def cut(
    dialect: Dialect, text: bytes, size: int = 1 << 20, skip: int = 0
) -> tuple[list[bytes], list[int], list[tuple]]:
    """Good lines, their numbers and the malformed ones of a text that comes in blocks of `size` bytes."""
    lines: list[bytes] = []
    numbers: list[int] = []
    malformed: list[tuple] = []
    for found in dialect.records(iter([text[at : at + size] for at in range(0, len(text), size)]), skip):
        some = [line for line in found.text.split(b"\n") if line]
        lines += some
        numbers += found.numbers if found.numbers is not None else range(found.first, found.first + len(some))
        malformed += found.malformed
    return lines, numbers, malformed


@pytest.mark.parametrize(
    ("record", "plain"),
    [
        (rb'1,"x""y"', rb'1,"x""y"'),
        (rb'1,"p\"q"', rb'1,"p""q"'),
        (rb'1,"r\\"', rb'1,"r\"'),
        (rb'1,"C:\temp"', rb'1,"C:\temp"'),
        (rb"1,C:\temp", rb"1,C:\temp"),
        (rb"1,a\"b", rb"1,a\"b"),
        (rb'1,5" x', rb'1,5" x'),
        (rb'1, "q" ', rb'1, "q" '),
        (rb'1,"q" ,2', rb'1,"q",2'),
        (rb'"a\\\"b",', rb'"a\""b",'),
    ],
    ids=repr,
)
def test_quotes_and_escapes_mean_one_thing(record: bytes, plain: bytes) -> None:
    """Inside quotes a backslash escapes a quote and itself, and nothing else; outside it is a character."""
    assert cut(PLAIN, record + b"\n") == ([plain], [0], [])


@pytest.mark.parametrize("record", [b'1,"abc"def', b'1,"abc', b'1,"abc,2', b"1,\xff", b'"a""'], ids=repr)
def test_broken_records_are_named_with_their_number(record: bytes) -> None:
    """Text after a closing quote, a quote that is not closed and bytes that are not UTF-8 harm their own line only."""
    lines, numbers, malformed = cut(PLAIN, b"a,b\n" + record + b"\nc,d\n")
    assert (lines, numbers) == ([b"a,b", b"c,d"], [0, 2])
    assert malformed == [(1, record.decode("utf-8", "backslashreplace"))]


def test_blank_lines_and_comments_are_no_records() -> None:
    """Neither counts; a comment mark elsewhere is text."""
    text = b"#x\n\n1,#2\n   \n#3,4\n5,6\n"
    assert cut(Dialect(",", '"', "\\", "#", multi_line=False), text) == ([b"1,#2", b"5,6"], [0, 1], [])


def test_blanks_that_are_the_separator_are_fields() -> None:
    """A line of tabs is a record of empty fields where tabs separate."""
    assert cut(Dialect("\t", '"', "\\", "", multi_line=False), b"\t\t\n")[0] == [b"\t\t"]


def test_quotes_may_hold_line_ends_only_if_told_so() -> None:
    """With `multiLine` a line end inside quotes belongs to the value; without, both lines are looked at alone."""
    text = b'1,"x\ny"\n2,z\n'
    assert cut(PLAIN, text)[1:] == ([1, 2], [(0, '1,"x')])  # `y"` has one field: its number of fields is judged later
    (found,) = MULTI.records(iter([text]), 0)
    assert (found.text, list(found.numbers or ())) == (text, [0, 1])


def test_a_quote_that_is_never_closed_is_one_malformed_record() -> None:
    """With `multiLine` the rest of the file cannot be told apart: it is kept as one malformed record."""
    (found,) = MULTI.records(iter([b'1,2\n3,"4\n5,6\n']), 0)
    assert (found.text, found.malformed) == (b"1,2\n", [(1, '3,"4\n5,6\n')])


def test_a_record_without_end_is_an_error() -> None:
    """Memory stays bounded: a record longer than the limit ends the read with its number."""
    endless = b"x" * (RECORD_BYTES // 2)
    with pytest.raises(ValueError, match="record 1 is longer than 16 MiB"):
        list(MULTI.records(iter([b'1,2\n3,"4', endless, endless, endless]), 0))
    with pytest.raises(ValueError, match="line is longer"):
        list(line_blocks(iter([b"a\n", endless, endless, b"b", b"\n"])))


def test_no_quote_character_means_no_quoting() -> None:
    """An empty `quote` option makes quotes plain text."""
    dialect = Dialect(",", "", "", "", multi_line=False)
    assert cut(dialect, b'"a,b"\n')[0] == [b'"a,b"']
    assert dialect.split(b'"a,b"') == ['"a', 'b"']


def test_fields_of_a_header_are_taken_apart() -> None:
    """An empty field is told from a quoted empty one."""
    assert PLAIN.split(b'a,"b ""c",,"",x') == ["a", 'b "c', None, "", "x"]
    assert PLAIN.head(iter([b"\n  \na,", b"b\n1,2"])) == b"a,b"
    assert PLAIN.head(iter([b"\n"])) is None


PIECES = [b"a", b"1", b",", b"\n", b'"', b"\\", b" ", b"#", b'"x"', b'"x,y"', b"\xc3\xbc", b"\xff"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.integers(1, 12), st.booleans(), st.booleans())
def test_blocks_do_not_matter(text: bytes, size: int, multi: bool, comments: bool) -> None:
    """However the bytes arrive, records, numbers and malformed ones are the same."""
    dialect = Dialect(",", '"', "\\", "#" if comments else "", multi)
    assert cut(dialect, text, size) == cut(dialect, text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join), st.integers(0, 2))
def test_runs_and_single_records_agree(text: bytes, skip: int) -> None:
    """Lines taken by the run are those that are taken one by one."""
    careful = [found for found in PLAIN._scan(text, 0, True) if found[0] is not None][skip:]
    lines, numbers, malformed = cut(PLAIN, text, skip=skip)
    expected = [(number, PLAIN._plain(record)) for number, (record, _) in enumerate(careful)]
    assert list(zip(numbers, lines, strict=True)) == [(n, plain) for n, plain in expected if plain is not None]
    assert [number for number, _ in malformed] == [number for number, plain in expected if plain is None]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.text('ab",\\ \n#', max_size=4), min_size=2, max_size=2), min_size=1, max_size=5))
def test_what_a_csv_writer_wrote_is_read_back(rows: list[list[str]]) -> None:
    """Every value of Python's csv writer, quoted in full, comes back (escape is the quote, as that writer has it)."""
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    text = stream.getvalue().encode()
    dialect = Dialect(",", '"', '"', "", multi_line=True)
    found = [record for record, _ in dialect._scan(text, 0, True) if record is not None]
    assert [dialect.split(record) for record in found] == rows


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_bytes_become_utf8_lines(size: int) -> None:
    """Byte order mark, CRLF, CR and other encodings: one form, wherever the blocks end."""
    text = "a\r\nb\rü\n"
    for encoding in ("utf-8-sig", "utf-16", "utf-8", "iso8859-1"):
        stream = io.BytesIO(text.encode(encoding))
        found = chunks(stream, "utf-8" if encoding == "utf-8-sig" else encoding, size)
        assert b"".join(found) == "a\nb\nü\n".encode()


def test_line_blocks_end_with_their_lines() -> None:
    """A line that two blocks share goes with the second."""
    assert list(line_blocks(iter([b"a\nb", b"c\nd", b"e"]))) == [b"a\n", b"bc\n", b"de"]
