"""Tests of tables with history that are refused: what contradicts itself, and what does not fit its source."""

from __future__ import annotations

import pytest

from lakehouse_assets.errors import CatalogError, LakehouseError
from lakehouse_assets_tests.tables.history_lab import embedded as embedded  # a fixture
from lakehouse_assets_tests.tables.history_lab import engine as engine  # a fixture
from lakehouse_assets_tests.tables.history_lab import (
    history,
    lab,
    of,
    up,
)

BAD = {
    "no keys": (history(keys=[]), "primary_keys|keys"),
    "a key twice": (history(keys=["k", "K"]), "twice"),
    "both column lists": (history(column_list=["k"], except_column_list=["a"]), "excludes the other"),
    "both track lists": (
        history(track_history_column_list=["a"], track_history_except_column_list=["b"]),
        "excludes the other",
    ),
    "both lists of nulls": (
        history(ignore_null_updates_column_list=["a"], ignore_null_updates_except_column_list=["b"]),
        "excludes the other",
    ),
    "track list of type 1": (history(stored_as_scd_type=1, track_history_column_list=["a"]), "type 1 keeps no history"),
    "empty list of nulls": (history(ignore_null_updates_column_list=[]), "is empty"),
    "key not in the list": (history(column_list=["a"]), "leaves out the primary keys k"),
    "key left out": (history(except_column_list=["k"]), "primary keys"),
    "key in the track list": (history(track_history_column_list=["k"]), "primary keys"),
    "sequence without text": (history(sequence_by=" "), "blank"),
    "type 3": (history(stored_as_scd_type=3), "stored_as_scd_type"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_declaration_that_is_refused(tmp_path, embedded, name):
    """Spec changes 5.2, 5.5, D47: what contradicts itself is refused when the catalog is read."""
    entity, message = BAD[name]
    with pytest.raises(CatalogError, match=message):
        lab(tmp_path, embedded, entity)


UNFIT = {
    "unknown column in the list": (history(column_list=["k", "nope"]), "nope"),
    "unknown column left out": (history(except_column_list=["id", "nope"]), "nope"),
    "unknown tracked column": (history(track_history_column_list=["nope"]), "nope"),
    "tracked column that is left out": (history(track_history_column_list=["op"]), "op"),
    "unknown column of nulls": (history(ignore_null_updates_column_list=["nope"]), "nope"),
    "unknown key": (history(keys=["nope"]), "nope"),
    "key that is not selected": (history(select=["ts", "op", "a"]), "k"),
    "unknown sequence": (history(sequence_by="nope"), "nope"),
    "reserved name": (history(select=["k", "ts", "op", "a AS `__START_AT`"]), "__START_AT"),
    "reserved name in another case": (history(select=["k", "ts", "op", "a AS `__end_at`"]), "(?i)__END_AT"),
    "reserved name of the log": (history(select=["k", "ts", "op", "a AS `_operation`"]), "_operation"),
    "renamed column that is there": (history(lakehouse={"history": {"start_at": "a"}}), "'?a'?"),
    "soft delete column that is there": (history(lakehouse={"history": {"soft_deletes": "B"}}), "(?i)'?b'?"),
    "condition that is no condition": (history(apply_as_deletes="b + 1"), "(?i)boolean|true|condition"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_declaration_that_does_not_fit_its_source(tmp_path, embedded, name):
    """Spec changes 5.2, 5.5: what the source lacks, or has of the project's own, is refused; nothing is written."""
    entity, message = UNFIT[name]
    with pytest.raises(LakehouseError, match=message):
        lab(tmp_path, embedded, entity).batch(*of("k", up(5, "x", 1)))
    assert not (tmp_path / "lake" / "silver").exists()


def test_a_reserved_name_that_is_landed(tmp_path, embedded):
    """Spec changes 5.2: a source column under the name of a column of history is refused."""
    with pytest.raises(CatalogError, match="__START_AT"):
        lab(tmp_path, embedded, columns="id BIGINT, k STRING, ts BIGINT, op STRING, `__START_AT` BIGINT")
