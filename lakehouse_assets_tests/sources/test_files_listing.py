"""Which files a source means: directories, globs, hidden files, partition directories, single files."""

from __future__ import annotations

import datetime as dt
import os
import re
from pathlib import Path

import pytest

from lakehouse_assets.errors import NotRunnable, SourceMissing, SourceUnreadable, TypeRefused
from lakehouse_assets.sources.base import Past, open_source
from lakehouse_assets.sources.files_listing import Place
from lakehouse_assets_tests.sources.files_making import discovered, entity, everything, misfits, put, rows, table
from lakehouse_assets_tests.sources.sqlite_lab import as_nobody


def found(source: object, **options: object) -> list[str]:
    """The one column of all files that are read as a whole, sorted."""
    return sorted(row["_c0"] for row in rows(entity(source, **options)))


def discovered_here(source: object, **options: object) -> list[str]:
    """The one column of all files that are discovered, sorted."""
    return sorted(row["_c0"] for row in rows(discovered(source, **options)))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files in the directory, below it, in partition directories and hidden ones; each holds its own name."""
    for name in (
        "a.csv", "b.txt", "x/c.csv", "x/y/d.csv", "k=1/e.csv", "k=1/z/f.csv", "_h/g.csv", ".i/h.csv", "x/_j.csv",
        ".k.csv", "_SUCCESS", "l.csv._COPYING_", "_q=2/m.csv",
    ):  # fmt: skip
        put(tmp_path / "in" / name, re.sub(r".*/", "", name)[:1] if name != "_SUCCESS" else "S")
    put(tmp_path / "in" / "empty.csv", "")
    return tmp_path / "in"


def test_a_directory_is_its_files_and_its_partitions(tree: Path) -> None:
    """As in Spark: other directories are not looked into, hidden and empty files are left out."""
    assert found(tree) == ["a", "b", "e", "m"]


def test_a_recursive_look_up_finds_all(tree: Path) -> None:
    """`recursiveFileLookup` looks everywhere but into what is hidden."""
    assert found(tree, recursiveFileLookup="true") == ["a", "b", "c", "d", "e", "f", "m"]


def test_discovery_is_recursive_unless_told_otherwise(tree: Path) -> None:
    """As in Auto Loader."""
    assert discovered_here(tree) == ["a", "b", "c", "d", "e", "f", "m"]
    assert discovered_here(tree, recursiveFileLookup="false") == ["a", "b", "e", "m"]


def test_a_glob_on_names_chooses_files(tree: Path) -> None:
    """`pathGlobFilter` looks at the file's name only, with Hadoop's alternatives."""
    assert found(tree, pathGlobFilter="*.txt") == ["b"]
    assert discovered_here(tree, pathGlobFilter="[a-d].{csv,txt}") == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.csv", ["a"]),
        ("{a,b}.*", ["a", "b"]),
        ("?.[^c]*", ["b"]),
        ("*", ["a", "b", "c", "e", "m"]),
        ("x/*/*.csv", ["d"]),
        ("k=*", ["e"]),
        ("nothing*", []),
    ],
)
def test_a_source_may_be_a_glob(tree: Path, glob: str, names: list[str]) -> None:
    """Each part of a path is matched alone; a directory that matches is read as a source directory is."""
    options = {"schema": "_c0 string"}
    assert sorted(row["_c0"] for row in rows(entity(f"{tree}/{glob}", **options))) == names  # type: ignore[arg-type]


def test_a_source_may_be_one_file(tree: Path) -> None:
    """A hidden one too, as it is named; `_source` is what the entity says."""
    assert found(tree / "_h" / "g.csv") == ["g"]
    assert found(f"file://{tree}/a.csv") == ["a"]
    assert table(entity(tree / "a.csv")).column("_source").to_pylist() == [str(tree / "a.csv")]


def test_a_name_with_marks_of_a_glob_is_a_name_first(tmp_path: Path) -> None:
    """A directory that is really called `in[1]` is found."""
    put(tmp_path / "in[1]" / "a.csv", "x")
    assert found(tmp_path / "in[1]") == ["x"]


def test_rows_say_where_they_stood(tree: Path) -> None:
    """`_source` is the file as the entity spells it, `_position` the path under the source and the row's number."""
    put(tree / "a.csv", "1\n2\n")
    last = table(entity(f"{tree}/", pathGlobFilter="a.csv")).to_pylist()[-1]
    assert last == {"_c0": "2", "_position": "a.csv#1", "_source": f"{tree}/a.csv"}
    assert table(entity(f"{tree}/x/*.csv")).column("_source").to_pylist() == [f"{tree}/x/c.csv"]


def test_partition_directories_become_columns(tmp_path: Path) -> None:
    """Whole numbers, dates and texts, as Spark tells them apart; a file outside of them has NULL."""
    put(tmp_path / "day=2024-01-01/n=01/s=a%20b/big=3000000000/a.csv", "1")
    put(tmp_path / "day=2024-01-02/n=2/s=__HIVE_DEFAULT_PARTITION__/big=1/b.csv", "2")
    put(tmp_path / "c.csv", "3")
    names = ["_c0", "day", "n", "s", "big"]
    expected = [
        ("3", None, None, None, None),
        ("1", dt.date(2024, 1, 1), 1, "a b", 3_000_000_000),
        ("2", dt.date(2024, 1, 2), 2, None, 1),
    ]
    assert rows(entity(tmp_path)) == [dict(zip(names, row, strict=True)) for row in expected]
    assert [str(t) for t in table(entity(tmp_path)).schema.types[:5]] == [
        "string",
        "date32[day]",
        "int32",
        "string",
        "int64",
    ]


def test_a_declared_partition_column_has_its_type(tmp_path: Path) -> None:
    """It keeps its place in the declaration; a value that does not fit sends the file's rows to quarantine."""
    put(tmp_path / "n=01/a.csv", "1")
    put(tmp_path / "n=x/b.csv", "2")
    assert rows(entity(tmp_path, schema="n string, v int")) == [{"n": "01", "v": 1}, {"n": "x", "v": 2}]
    assert rows(entity(tmp_path, schema="n int, v int")) == [{"n": 1, "v": 1}]
    (misfit,) = misfits(entity(tmp_path, schema="n int, v int"))
    assert (misfit["_reasons"], misfit["_upstream"]) == (["cast_failed:n"], {"v": "2", "n": "x"})


def test_the_path_s_value_stands_before_the_file_s(tmp_path: Path) -> None:
    """As in Spark, where a file repeats its partition column."""
    put(tmp_path / "n=7/a.csv", "n,v\n8,x\n")
    assert rows(entity(tmp_path, header="true")) == [{"v": "x", "n": 7}]


def test_a_recursive_look_up_makes_no_columns(tmp_path: Path) -> None:
    """As in Spark, `recursiveFileLookup: true` takes directories for directories."""
    put(tmp_path / "n=7/a.csv", "x")
    assert rows(entity(tmp_path, recursiveFileLookup="true")) == [{"_c0": "x"}]


def test_a_partition_name_without_a_place_in_a_table_is_refused(tmp_path: Path) -> None:
    """`a b=1` names no column."""
    put(tmp_path / "a b=1/a.csv", "x")
    with pytest.raises(TypeRefused, match="a b"):
        rows(entity(tmp_path))


def test_a_missing_directory_names_what_is_near(tmp_path: Path) -> None:
    """The nearest name stands first among what is there."""
    (tmp_path / "orders").mkdir()
    (tmp_path / "zebra").mkdir()
    with pytest.raises(SourceMissing, match=r"no file or directory at '.*/order'[\s\S]*legal: orders, zebra \(did you"):
        rows(entity(tmp_path / "order"))
    with pytest.raises(SourceMissing, match=r"did you mean 'orders'"):
        rows(discovered(f"{tmp_path}/order/*.csv"))


def test_a_store_without_a_file_system_is_refused() -> None:
    """The schemes that can be read are named."""
    with pytest.raises(NotRunnable, match=r"'abfss'\)\s+legal: a local path, file, s3"):
        rows(entity("abfss://container@account/in"))


def test_an_empty_directory_is_legal_and_has_no_columns(tmp_path: Path) -> None:
    """Nothing is new; without a declaration there is nothing to learn the columns from."""
    for declared in (entity(tmp_path), discovered(tmp_path)):
        with open_source(declared) as source:
            assert source.latest(Past()) == source.earliest()
            with pytest.raises(SourceMissing, match=r"no file with columns[\s\S]*source_schema"):
                source.schema()
    assert rows(entity(tmp_path, schema="a int")) == []


@pytest.mark.parametrize("what", ["directory", "file", "below"])
def test_what_may_not_be_read_is_named(tmp_path: Path, what: str) -> None:
    """No permission on the directory, on a directory below, or on a file: `SourceUnreadable` names it."""
    directory = tmp_path / "in"
    put(directory / "n=1" / "a.csv", "x")
    locked = {"directory": directory, "file": directory / "n=1" / "a.csv", "below": directory / "n=1"}[what]
    for parent in (tmp_path, *list(tmp_path.parents)[:2], directory, directory / "n=1"):
        parent.chmod(0o755)
    locked.chmod(0o000)

    def look() -> None:
        with open_source(entity(directory)) as source, pytest.raises(SourceUnreadable, match="no permission") as caught:
            everything(source)
        assert what == "below" or str(locked) in str(caught.value)

    as_nobody(look)
    locked.chmod(0o755)


def test_files_that_are_known_are_not_looked_at(tmp_path: Path) -> None:
    """Names are enough to know them by: whoever may list a directory, and not look at its files, finds no new one."""
    for number in range(3):
        put(tmp_path / "in" / f"{number}.csv", "1")
    source = open_source(discovered(tmp_path / "in", schema="id bigint"))
    known = Past.of(source.latest(Past()))
    fewer = Past.of({**known.last, "files": known.last["files"][1:]} if known.last else {})
    for parent in (tmp_path, *list(tmp_path.parents)[:2]):
        parent.chmod(0o755)
    (tmp_path / "in").chmod(0o444)

    def look() -> None:
        assert source.latest(known) == known.last
        with pytest.raises(SourceUnreadable, match="no permission"):
            source.latest(fewer)

    as_nobody(look)


def test_only_files_that_hold_something_count(tmp_path: Path) -> None:
    """Links lead to their files; links to nothing, pipes and empty files are none."""
    put(tmp_path / "a.csv", "a")
    put(tmp_path / "in" / "b.csv", "b")
    put(tmp_path / "in" / "empty.csv", "")
    (tmp_path / "in" / "link.csv").symlink_to(tmp_path / "a.csv")
    (tmp_path / "in" / "nothing.csv").symlink_to(tmp_path / "gone.csv")
    os.mkfifo(tmp_path / "in" / "pipe.csv")
    assert discovered_here(tmp_path / "in") == ["a", "b"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """It could not stand in a position, nor in `_source`."""
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.csv")).write_text("a")
    with pytest.raises(SourceUnreadable, match="cannot be read"):
        open_source(discovered(tmp_path / "in", schema="id bigint")).latest(Past())


def test_times_are_exact_to_the_nanosecond(tmp_path: Path) -> None:
    """A listed file equals the same file looked at by itself: else it would seem to have changed."""
    os.utime(put(tmp_path / "a.csv", "1"), ns=(1, 1_700_000_000_123_456_789))
    place = Place(str(tmp_path), recursive=True, name_glob=None, who="t")
    assert place.files() == (place.stat("a.csv"),) == (("a.csv", 1, 1_700_000_000_123_456_789),)
