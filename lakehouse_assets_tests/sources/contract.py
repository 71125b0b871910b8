"""What every source must do, written once: a source's test module subclasses `SourceContract` and gives a `case`.

What belongs here: behaviour that a caller of any source relies on. What does not: anything about one source.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pytest

from lakehouse_assets.errors import IncarnationChanged
from lakehouse_assets.sources.base import MISFIT_SCHEMA, ROW_FIELDS, Past, Position, Source


class Case(ABC):
    """A stream to test with: it starts empty, grows by `add`, and can be opened any number of times.

    Attributes:
        secrets: texts that the source was given and that nobody may see.
    """

    secrets: tuple[str, ...] = ()

    @abstractmethod
    def add(self, ids: Sequence[int]) -> None:
        """Put rows with these values in a column `id` (64-bit integer) at the end of the stream."""

    def ids(self, table: pa.Table) -> list[int]:
        """The values that `add` was given, of rows that were read."""
        return column_id(table)

    @abstractmethod
    def open(self) -> Source:
        """A fresh source on the stream."""

    @abstractmethod
    def swap(self) -> None:
        """Put another stream in the place of this one, as a restored or recreated system would."""


def table_of(source: Source, start: Position, end: Position) -> pa.Table:
    """All rows of a range, in order."""
    batches = [batch.rows for batch in source.read(start, end)]
    return pa.Table.from_batches(batches, batches[0].schema if batches else _row_schema(source))


def column_id(table: pa.Table) -> list[int]:
    """The column `id`."""
    return table.column("id").to_pylist()


Ids = Callable[[pa.Table], list[int]]


def ids_of(source: Source, start: Position, end: Position, ids: Ids = column_id) -> list[int]:
    """The ids of a range, in order."""
    return ids(table_of(source, start, end))


def drain(source: Source, past: Past, of: Ids = column_id) -> tuple[list[int], Past]:
    """Read until nothing is new, as the caller of a source does; the ids, and the past afterwards."""
    ids: list[int] = []
    positions = list(past.positions())
    while True:
        start = positions[-1] if positions else source.earliest()
        end = source.latest(Past.of(*positions))
        if end == start:
            return ids, Past.of(*positions)
        ids += ids_of(source, start, end, of)
        positions.append(end)


def _row_schema(source: Source) -> pa.Schema:
    return pa.schema([*source.schema(), *ROW_FIELDS])


class SourceContract:
    """The contract; a subclass gives the fixture `case`."""

    @pytest.fixture
    def case(self) -> Case:
        """A fresh, empty stream."""
        raise LookupError(f"{type(self).__name__} must override the fixture 'case'")

    @pytest.fixture
    def source(self, case: Case) -> Iterator[Source]:
        """The stream with ids 0 to 4, added in two steps, and opened."""
        case.add([0, 1, 2])
        case.add([3, 4])
        with case.open() as source:
            yield source

    def test_an_empty_stream_has_nothing_new(self, case: Case) -> None:
        """`latest` of a stream without rows, of which nothing was read, is `earliest`."""
        with case.open() as source:
            assert source.latest(Past()) == source.earliest()

    def test_a_range_reads_the_rows_in_order(self, case: Case, source: Source) -> None:
        """From earliest to latest every row is read once, in the order of the stream."""
        assert drain(source, Past(), case.ids)[0] == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("steps", [[5], [1, 1, 1], [3, 0, 4], [2, 7, 1, 0, 5]], ids=str)
    def test_every_row_is_read_exactly_once_whatever_the_batching(self, case: Case, steps: list[int]) -> None:
        """Rows that are read as they arrive, in any steps, by sources opened anew: each once, in order."""
        added, seen, past = 0, [], Past()
        for step in steps:
            case.add(range(added, added + step))
            added += step
            with case.open() as source:
                new, past = drain(source, past, case.ids)
                seen = seen + new if source.incremental or not new else new
        assert seen == list(range(added))

    def test_latest_is_the_last_position_when_nothing_is_new(self, case: Case, source: Source) -> None:
        """A stream that was read to its end answers with the very position of the last plan, opened anew too."""
        _, past = drain(source, Past(), case.ids)
        with case.open() as again:
            assert source.latest(past) == again.latest(past) == past.last

    def test_latest_moves_when_a_row_arrives(self, case: Case, source: Source) -> None:
        """One more row is enough for a new position."""
        _, past = drain(source, Past(), case.ids)
        case.add([5])
        assert source.latest(past) != past.last

    def test_latest_asked_twice_answers_the_same(self, source: Source) -> None:
        """Asking has no effect on the stream."""
        assert source.latest(Past()) == source.latest(Past())

    def test_a_closed_range_reads_the_same_rows_again(self, case: Case, source: Source) -> None:
        """A recorded range gives equal rows at every read: opened anew, and (if incremental) after rows arrived."""
        start, end = source.earliest(), source.latest(Past())
        first = table_of(source, start, end)
        if source.incremental:
            case.add([5, 6])
        with case.open() as again:
            assert table_of(again, start, end).equals(first)
            assert table_of(again, start, end).equals(first)

    def test_reading_has_no_effect_on_what_is_new(self, case: Case, source: Source) -> None:
        """Only the caller's past decides what is new."""
        before = source.latest(Past())
        drain(source, Past(), case.ids)
        assert source.latest(Past()) == before

    def test_an_empty_range_has_no_rows(self, case: Case, source: Source) -> None:
        """From a position to itself there is nothing."""
        end = source.latest(Past())
        assert ids_of(source, end, end, case.ids) == []
        assert ids_of(source, source.earliest(), source.earliest(), case.ids) == []

    def test_a_reader_that_stops_early_does_no_harm(self, case: Case, source: Source) -> None:
        """Rows are streamed; a range that was left half-read can be read again."""
        end = source.latest(Past())
        batches = source.read(source.earliest(), end)
        assert iter(batches) is batches
        next(batches)
        del batches
        assert drain(source, Past(), case.ids)[0] == [0, 1, 2, 3, 4]

    def test_positions_survive_json(self, case: Case, source: Source) -> None:
        """A position is a JSON object: written and read back it is equal and means the same range."""
        start, end = source.earliest(), source.latest(Past())
        restored = [json.loads(json.dumps(position)) for position in (start, end)]
        assert restored == [start, end]
        with case.open() as again:
            assert table_of(again, *restored).equals(table_of(source, start, end))

    def test_batches_have_the_declared_schema(self, source: Source) -> None:
        """Rows hold the columns of `schema()`, then `ROW_FIELDS`; misfits are `MISFIT_SCHEMA`."""
        for batch in source.read(source.earliest(), source.latest(Past())):
            assert batch.rows.schema.equals(_row_schema(source))
            assert batch.misfits is None or batch.misfits.schema.equals(MISFIT_SCHEMA)

    def test_a_fresh_source_knows_its_schema(self, case: Case, source: Source) -> None:
        """The schema needs no read before it, and leaves `ROW_FIELDS` to the rows."""
        names = {field.name for field in ROW_FIELDS}
        with case.open() as again:
            assert again.schema().equals(source.schema())
            assert not names & set(again.schema().names)

    def test_every_row_says_where_it_stood(self, source: Source) -> None:
        """`_position` and `_source` are filled in, and `_position` is unique in the stream."""
        rows = table_of(source, source.earliest(), source.latest(Past()))
        assert rows.column("_position").null_count == rows.column("_source").null_count == 0
        assert len(set(rows.column("_position").to_pylist())) == 5

    def test_the_incarnation_stays_while_rows_arrive(self, case: Case, source: Source) -> None:
        """The identity at a position is the same later on, from a source opened anew, and is accepted."""
        _, past = drain(source, Past(), case.ids)
        position = past.last or source.earliest()
        recorded = source.incarnation(position)
        case.add([5, 6])
        with case.open() as again:
            assert again.incarnation(position) == recorded
            again.verify(position, recorded)

    def test_another_stream_in_its_place_is_refused(self, case: Case, source: Source) -> None:
        """A stream that is not the one that was read is refused with the choices; a whole-read source has no stream."""
        _, past = drain(source, Past(), case.ids)
        position = past.last or source.earliest()
        recorded = source.incarnation(position)
        source.close()
        case.swap()
        with case.open() as other:
            if not other.incremental:
                other.verify(position, recorded)
                return
            with pytest.raises(IncarnationChanged, match="--full-refresh"):
                other.verify(position, recorded)

    def test_nothing_is_reported_of_a_quiet_stream(self, case: Case, source: Source) -> None:
        """A careful look at a stream to which nothing happened finds no loss, change or late row."""
        _, past = drain(source, Past(), case.ids)
        alarming = [notice for notice in source.audit(past) if _is_alarm(notice.code)]
        assert alarming == []

    def test_the_description_is_json_without_secrets(self, case: Case, source: Source) -> None:
        """`describe` is for people: plain JSON, and nothing secret in it."""
        text = json.dumps(source.describe())
        assert [secret for secret in case.secrets if secret in text] == []
        assert text != "{}"

    def test_partitions_are_fingerprints_by_key(self, source: Source) -> None:
        """`partitions` maps a key to a fingerprint, both texts."""
        found = source.partitions()
        assert isinstance(found, Mapping)
        assert all(isinstance(text, str) for pair in found.items() for text in pair)

    def test_closing_twice_is_harmless(self, case: Case) -> None:
        """`close` may come twice, before anything was opened too, and the stream can be opened again."""
        case.add([0])
        source = case.open()
        source.close()
        source.latest(Past())
        source.close()
        source.close()
        with case.open() as again:
            assert drain(again, Past(), case.ids)[0] == [0]


def _is_alarm(code: str) -> bool:
    return any(word in code for word in ("vanish", "gone", "rewritten", "late", "changed", "missing", "count"))
