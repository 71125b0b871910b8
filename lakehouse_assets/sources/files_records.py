r"""CSV text cut into records: which of them are well formed, and which are not.

What belongs here: quotes, escapes, comments, blank lines. What does not: columns and types (`files_csv.py`).

A record is what stands between two line ends; with `multiLine` a line end may stand inside quotes, otherwise a quote
that its line does not close makes the line malformed. Inside quotes `\"` and `""` both are one quote and `\\` is one
backslash (Spark, unless its `escape` is `"`, leaves `""` and the quotes around as they are); outside quotes all
characters stand for themselves. Text between a closing quote and the next separator makes the record malformed.
Empty lines, lines of blanks and comments are no records.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lakehouse_assets.sources.files_blocks import RECORD_BYTES, is_utf8, shown, with_last

_CAREFULLY = 256
"""After a record that needs a closer look, this many are looked at closely."""


@dataclass
class Records:
    """Some records of a file, ready for a parser that knows `""` and no escapes.

    Attributes:
        first: the number of the first record among all records of the file, from 0.
        text: the well-formed ones, with line ends.
        numbers: their numbers; `None` where they simply follow one another (malformed ones are not among them).
        malformed: number and text of the others.
    """

    first: int
    text: bytes
    numbers: Sequence[int] | None = None
    malformed: list[tuple[int, str]] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many records these are, malformed ones among them."""
        if self.numbers is not None:
            return len(self.numbers) + len(self.malformed)
        if self.text.startswith(b"\n") or b"\n\n" in self.text:
            return sum(1 for line in self.text.split(b"\n") if line)
        return self.text.count(b"\n") + (not self.text.endswith(b"\n") if self.text else 0)


class Dialect:
    """How records are written.

    Args:
        separator, quote, escape, comment: one character each; the last three may be empty.
        multi_line: quotes may hold line ends.
    """

    def __init__(self, separator: str, quote: str, escape: str, comment: str, multi_line: bool) -> None:
        self.separator, self.quote, self.escape = separator.encode(), quote.encode(), escape.encode()
        self.comment, self.multi_line = comment.encode(), multi_line
        self._blanks = b" \t".replace(self.separator, b"")
        self._blank_line = re.compile(rb"^[" + self._blanks + rb"]+$", re.MULTILINE)
        one = self._field_pattern()
        between = re.escape(self.separator) + rb"|(?=\n|\Z)"
        self._field = re.compile(one, re.DOTALL)
        self._record = re.compile(rb"(?:(?:" + one + rb")(?:" + between + rb"))++(?P<end>\n|\Z)", re.DOTALL)
        self._plain_lines = re.compile(self._plain_pattern())

    def split(self, record: bytes) -> list[str | None]:
        """The fields of one well-formed record; an empty field without quotes is `None`."""
        fields: list[str | None] = []
        at = 0
        while at <= len(record):
            found = self._field.match(record, at)
            if found is None:
                return [*fields, shown(record[at:])]
            body = found["body"]
            fields.append(shown(found[0]) or None if body is None else shown(self._unescaped(body)))
            at = found.end() + len(self.separator)
        return fields

    def head(self, parts: Iterator[bytes]) -> bytes | None:
        """The first record of a file, without its line end; `None` where there is none.

        Raises:
            ValueError: it is longer than `RECORD_BYTES`.
        """
        rest = b""
        for part, last in with_last(parts):
            rest = _bounded(rest + part, 0)
            for text, _ in self._scan(rest, 0, last):
                if text is not None:
                    return text
        return None

    def records(self, parts: Iterator[bytes], skip: int) -> Iterator[Records]:
        """All records of a file after the first `skip` ones, as the blocks come.

        Raises:
            ValueError: a record is longer than `RECORD_BYTES`.
        """
        rest, number = b"", 0
        for part, last in with_last(parts):
            block, at = rest + part, 0
            scan = self._scan(block, 0, last)
            while skip and (step := next(scan, None)):
                text, at = step
                skip -= text is not None
            if not skip:
                found, at = self._block(block, at, last, number)
                number += found.count
                yield found
            rest = _bounded(block[at:], number)

    def _block(self, block: bytes, at: int, last: bool, number: int) -> tuple[Records, int]:
        """The records of a block: lines that are plain records by the run, all others one by one."""
        stop = len(block) if last else block.rfind(b"\n") + 1
        if stop <= at or self._is_simple(block, at, stop):
            return Records(number, block[at:stop]), max(at, stop)
        spans_lines = self.multi_line and bool(self.quote) and block.find(self.quote, at) >= 0
        if spans_lines or not is_utf8(block[at:stop]):
            return self._careful(block, at, last, number, None)
        whole = Records(number, b"", [])
        texts: list[bytes] = []
        numbers: list[int] = []
        while at < stop:
            end = self._plain_lines.match(block, at, stop).end()  # type: ignore[union-attr]  # it matches nothing too
            run = Records(number, block[at:end])
            some, at = self._careful(block, end, last, number + run.count, _CAREFULLY)
            texts += [run.text, some.text]
            numbers += [*range(number, number + run.count), *(some.numbers or ())]
            whole.malformed += some.malformed
            number += run.count + some.count
            if at == end and some.count == 0:
                break
        whole.text, whole.numbers = b"".join(texts), numbers
        return whole, at

    def _is_simple(self, block: bytes, start: int, end: int) -> bool:
        """Whether all lines are records, and none of them needs a closer look."""
        marks = [mark for mark in (self.quote, self.comment) if mark]
        if any(block.find(mark, start, end) >= 0 for mark in marks) or not is_utf8(block[start:end]):
            return False
        starts = [b"\n" + self._blanks[at : at + 1] for at in range(len(self._blanks))]
        if block[start : start + 1].strip(self._blanks) and not any(block.find(s, start, end) >= 0 for s in starts):
            return True
        return not self._blank_line.search(block, start, end)

    def _careful(self, block: bytes, start: int, last: bool, number: int, most: int | None) -> tuple[Records, int]:
        """Record by record, at most `most` of them."""
        good: list[bytes] = []
        numbers: list[int] = []
        found = Records(number, b"", numbers)
        end = start
        for text, after in self._scan(block, start, last):
            end = after
            if text is not None:
                plain = self._plain(text)
                if plain is None:
                    found.malformed.append((number, shown(text)))
                else:
                    good.append(plain)
                    numbers.append(number)
                number += 1
            if most is not None and number - found.first >= most:
                break
        found.text = b"\n".join([*good, b""])
        return found, end

    def _scan(self, block: bytes, at: int, last: bool) -> Iterator[tuple[bytes | None, int]]:
        """Each record from `at` on and where the next begins; what may go on in the next block is left.

        Blank lines and comments come as `None`.
        """
        while at < len(block):
            found = self._record.match(block, at)
            if found is not None:
                stop, end, whole = found.start("end"), found.end(), bool(found["end"])
            else:
                stop = -1 if self.multi_line else block.find(b"\n", at)
                whole = stop >= 0
                stop, end = (stop, stop + 1) if whole else (len(block), len(block))
            if not whole and not last:
                return
            text, at = block[at:stop], end
            is_record = text.strip(self._blanks) and not (self.comment and text.startswith(self.comment))
            yield text if is_record else None, end

    def _plain(self, record: bytes) -> bytes | None:
        """A record with escapes and blanks around quotes resolved; `None` where it is malformed."""
        found = self._record.fullmatch(record)
        if found is None or found["junk"] is not None or not is_utf8(record):
            return None
        if found["pad"] is None and (not self.escape or self.escape == self.quote or self.escape not in record):
            return record
        fields, at = [], 0
        while at <= len(record):
            one = self._field.match(record, at)
            if one is None:
                return None
            body = one["body"]
            fields.append(one[0] if body is None else self._quoted(self._unescaped(body)))
            at = one.end() + len(self.separator)
        return self.separator.join(fields)

    def _quoted(self, value: bytes) -> bytes:
        return self.quote + value.replace(self.quote, self.quote * 2) + self.quote

    def _unescaped(self, body: bytes) -> bytes:
        """What stands between two quotes, as it is meant."""
        quote, escape = self.quote, self.escape
        if not escape or escape == quote:
            return body.replace(quote * 2, quote)
        pair = re.compile(rb"(?:%b|%b)([%b%b])" % tuple(map(re.escape, (escape, quote, escape, quote))))
        return pair.sub(lambda two: two[1] if two[0] != quote + escape else two[0], body)

    def _field_pattern(self) -> bytes:
        """One field, its quotes and escapes seen."""
        sep, quote, escape = (re.escape(mark) for mark in (self.separator, self.quote, self.escape))
        if not self.quote:
            return rb"(?P<body>(?!))?(?P<pad>(?!))?(?P<junk>(?!))?[^\n" + sep + rb"]*+"
        some = rb"." if self.multi_line else rb"[^\n]"
        escaped = rb"|" + escape + some if self.escape and self.escape != self.quote else b""
        plain = rb"[^" + quote + (escape if escaped else b"") + (b"" if self.multi_line else rb"\n") + rb"]++"
        body = rb"(?P<body>(?:" + plain + rb"|" + quote * 2 + escaped + rb")*+)"
        after = rb"(?P<pad>[" + self._blanks + rb"]++)?+(?P<junk>[^\n" + sep + rb"]++)?+"
        unquoted = rb"[^\n" + quote + sep + rb"][^\n" + sep + rb"]*+|"
        return quote + body + quote + after + rb"|" + unquoted

    def _plain_pattern(self) -> bytes:
        """Lines, as many as there are, of fields without escapes and without text around the quotes."""
        sep, quote, escape = (re.escape(mark) for mark in (self.separator, self.quote, self.escape))
        unquoted = rb"[^\n" + quote + sep + rb"][^\n" + sep + rb"]*+|"
        quoted = rb""
        if self.quote:
            no = escape if self.escape != self.quote else b""
            quoted = quote + rb"(?:[^" + quote + no + rb"\n]++|" + quote * 2 + rb")*+" + quote + rb"|"
        one = rb"(?:" + quoted + unquoted + rb")"
        comment = rb"(?!" + re.escape(self.comment) + rb")" if self.comment else b""
        blank = rb"(?![" + self._blanks + rb"]*+\n)"
        return rb"(?:" + blank + comment + one + rb"(?:" + sep + one + rb")*+\n)*+"


def _bounded(rest: bytes, number: int) -> bytes:
    if len(rest) > RECORD_BYTES:
        raise ValueError(f"record {number} is longer than {RECORD_BYTES >> 20} MiB: a quote is never closed")
    return rest
