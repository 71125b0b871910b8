"""What an older Spark lacks of what the newest does, and how it is asked the same.

What belongs here: functions of the dialect's Spark SQL that an older, supported Spark does not have or answers
otherwise, with what stands in their place; what its Delta lacks. What does not: the DuckDB side; which runtimes are
supported (`databricks/runtimes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sqlglot import exp

from lakehouse_assets.errors import NotRunnable
from lakehouse_assets.sql.expand import text_literal
from lakehouse_assets.sql.functions_text import CASED, IGNORED
from lakehouse_assets.sql.parse import parse_expression, render

Version = tuple[int, int]
"""Major and minor version of Spark, or of Delta."""


@dataclass(frozen=True)
class Since:
    """A function that an older Spark lacks, or answers otherwise.

    Attributes:
        version: the first that answers as the newest does.
        note: what an older one does.
        older: number of arguments -> what an older Spark is asked instead, exactly the same; `{0}`, `{1}` are the
            arguments. A number of arguments that is not there is refused.
    """

    version: Version
    note: str
    older: Mapping[int, str] = field(default_factory=dict)


_IS_UTF8 = "encode(decode(CAST({0} AS BINARY), 'UTF-8'), 'UTF-8') = CAST({0} AS BINARY)"
_FINAL_SIGMA = text_literal(f"([{CASED}][{IGNORED}]*)Σ(?![{IGNORED}]*[{CASED}])").replace("{", "{{").replace("}", "}}")
_LOWER = {1: f"lower(replace(regexp_replace({{0}}, {_FINAL_SIGMA}, '$1ς'), 'Σ', 'σ'))"}
_NO_UTF8 = "does not look whether bytes are text; they are decoded, encoded and compared"

FUNCTIONS: Mapping[str, Since] = {
    "lcase": Since((4, 0), "as lower", _LOWER),
    "lower": Since((4, 0), "takes digits for parts of a word, at whose end Σ becomes ς; Σ is replaced before", _LOWER),
    "try_to_date": Since(
        (4, 0),
        "lacks it; TRY_CAST, or CAST of try_to_timestamp, is the same",
        {1: "TRY_CAST({0} AS DATE)", 2: "CAST(try_to_timestamp({0}, {1}) AS DATE)"},
    ),
    "try_validate_utf8": Since((4, 0), _NO_UTF8, {1: f"if({_IS_UTF8}, {{0}}, NULL)"}),
    "validate_utf8": Since(
        (4, 0), _NO_UTF8, {1: f"if({{0}} IS NULL OR {_IS_UTF8}, {{0}}, raise_error('INVALID_UTF8_STRING'))"}
    ),
}
"""Functions of the dialect, and of what it is translated to (`validate_utf8` is a CAST of BINARY to STRING)."""

DELTA: Mapping[str, Since] = {
    "delta.enableInCommitTimestamps": Since((3, 3), "refuses to make such a table"),
    "typeWidening": Since((4, 0), "refuses to read and to write such a table"),
    "delta.randomizeFilePrefixes": Since(
        (4, 4),
        "does not heed it (open-source Delta): directories are named after values of partitions, and the embedded "
        "engine refuses to rewrite a table with a value beyond ASCII among them",
    ),
    "OPTIMIZE of a table that is clustered by one column": Since((4, 4), "refuses it (open-source Delta)"),
}
"""What an older Delta lacks, and the first that is known to have it; each is refused by name, and no row is harmed."""

RUNTIMES: Mapping[Version, str] = {(4, 0): "17.3 LTS"}
"""The first Databricks Runtime with a version of Spark."""


def as_of(version: str) -> Version:
    """What a session says its version is, as a `Version`: "3.5.0" is (3, 5)."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def spell(tree: exp.Expr, version: Version) -> exp.Expr:
    """A query of the newest Spark in the words of an older one.

    Args:
        tree: it is changed.
        version: the Spark that is to run it.

    Raises:
        NotRunnable: it calls what that Spark lacks; the message says which has it.
    """
    for node in reversed(list(tree.find_all(exp.Anonymous))):  # the innermost first
        name = str(node.this).lower()
        if name in FUNCTIONS and version < FUNCTIONS[name].version:
            node.replace(_older(node, name, version))
    return tree


def _older(node: exp.Anonymous, name: str, version: Version) -> exp.Expr:
    template = FUNCTIONS[name].older.get(len(node.expressions))
    if template is None:
        first = FUNCTIONS[name].version
        raise NotRunnable(
            f"{name}() needs Spark {_dotted(first)}, and this is Spark {_dotted(version)}",
            value=render(node),
            fix=f"run it on Databricks Runtime {RUNTIMES[first]} or newer, or write it without {name}()",
        )
    return parse_expression(template.format(*map(render, node.expressions)), name)


def table() -> str:
    """What an older Spark and an older Delta lack, as a table of Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "| what | since | an older one |"
    yield "| --- | --- | --- |"
    for product, rows in (("Spark", FUNCTIONS), ("Delta", DELTA)):
        for name, since in rows.items():
            yield f"| {name if ' ' in name else f'`{name}`'} | {product} {_dotted(since.version)} | {since.note} |"


def _dotted(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
