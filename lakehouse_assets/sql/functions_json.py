r"""from_json: one JSON object of text as a struct of texts, by RFC 8259 on both engines.

Both readers are lenient in ways of their own (DuckDB takes NaN and a comma before a bracket, Spark takes what follows
the object and half of a surrogate pair), both write numbers anew, and of members with one name DuckDB takes the first
and Spark the last. So in a text that is not plain numbers are made strings before it is read, and the reader has none
left to write anew. For Spark every string and number is *marked*: it begins with `s`. So a string is told from an
object, and no text can hold the mark's own `{"e":""}`, which stands behind it to show that nothing else follows.

What belongs here: from_json, and what keeps DuckDB from reading a text several times. What does not: which casts are
judged (`casts.py`).
"""

from __future__ import annotations

import re

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.errors import SqlError
from lakehouse_assets.sql.expand import text_literal
from lakehouse_assets.sql.functions import Call, Function
from lakehouse_assets.sql.parse import parse_expression, render
from lakehouse_assets.sql.typed import BOOL, STRING, Typed, refused, text

DEEPEST = 500
"""Levels of objects and arrays that a text may have; Spark's reader ends at 1000."""
LONGEST_NAME = 10_000
"""Bytes, as written, that a member's name may have with its quotes and colon; Spark's reader ends at 50,000."""

_MEMBER = re.compile(r"\s*(?:`((?:[^`]|``)+)`|(\w+))\s*:?\s*([^,]*?)\s*(?:,|$)")
_FIX = "declare it STRING and CAST it: a cast that fails is told"
_WORDS = "('true', 'false')"

_BLANK = r"[ \t\r\n]*"
_TEXT = r'"(?:[^"\\]|\\.)*"'
_PLAIN_NUMBER = r"-?[1-9][0-9]*|0|-?[1-9][0-9]{0,8}\.(?:[0-9]{0,5}[1-9]|0)|-?0\.[1-9](?:[0-9]{0,4}[1-9])?"
"""Numbers that DuckDB writes as they were: integers, and few digits around a point."""
_PLAIN_MEMBER = f"{_BLANK}{_TEXT}{_BLANK}:{_BLANK}(?:{_TEXT}|{_PLAIN_NUMBER}|true|false|null){_BLANK}"
_PLAIN = f"{_BLANK}\\{{{_PLAIN_MEMBER}(?:,{_PLAIN_MEMBER})*\\}}{_BLANK}"
_QUOTED = r'"((?:[^"\\]|\\.)*)"|(-?[0-9][0-9.eE+-]*)'
_LENIENT = r"(?i:nan|inf)|,[ \t\r\n]*[}\]]"

_JAVA_HEX = "[0-9a-fA-F]"
_JAVA_UNICODE = f"u(?:(?![dD][89a-fA-F]){_JAVA_HEX}{{4}}|[dD][89abAB]{_JAVA_HEX}{{2}}\\\\u[dD][c-fC-F]{_JAVA_HEX}{{2}})"
_JAVA_TEXT = f'"(?:[^"\\\\\\x00-\\x1f]++|\\\\(?:["\\\\/bfnrt]|{_JAVA_UNICODE}))*+"'
_JAVA_NUMBER = r"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?=[ \t\r\n,}\]])"
_JAVA_STRICT = f"^(?:[ \\t\\r\\n{{}}\\[\\],:]|{_JAVA_TEXT}|{_JAVA_NUMBER}|true|false|null)*+\\z"
_JAVA_SKIPPED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_JAVA_MARKED = r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"|(-?[0-9][0-9.eE+-]*+)'
_OPTIONS = {
    "mode": "PERMISSIVE",
    "allowSingleQuotes": "false",
    "allowNonNumericNumbers": "false",
    "maxNestingDepth": str(DEEPEST + 1),
    "maxStringLen": str(2**31 - 1),
}


def members(ddl: str) -> list[str]:
    """The names in `a STRING, `b c` STRING`.

    Raises:
        SqlError: it is no such list, a member has another type, or a name is given twice.
    """
    found: list[str] = []
    at = 0
    while at < len(ddl) or not found:
        match = _MEMBER.match(ddl, at)
        if match is None:
            raise SqlError("from_json(): the schema is not Spark DDL", value=ddl, fix="write 'id STRING, name STRING'")
        name = match[1].replace("``", "`") if match[1] else match[2]
        if match[3].upper() != "STRING":
            raise refused(f"from_json(): the member {name!r} is not STRING", _FIX)
        found.append(name)
        at = match.end()
    if ddl.rstrip().endswith(",") or len({name.lower() for name in found}) != len(found):
        raise refused("from_json(): a member is given twice, or one is missing", "give each member once, by its name")
    return found


def _from_json(call: Call) -> Typed:
    call.expect(2)
    subject, names = call.string(0), members(call.literal(1))
    kind = pa.struct([pa.field(name, STRING) for name in names])
    if call.translator.for_spark:
        tree = parse_expression(_spark(render(call.node.expressions[0]), names), "from_json")
        call.translator.replace(call.node, tree)
    return call.give(_duckdb(subject.sql, names), kind)


def _duckdb(subject: str, names: list[str]) -> str:
    """The members of a text; one that is exactly what DuckDB would write of them is not looked at.

    All else stands in a lambda: DuckDB computes parts that are alike beforehand, for every row, but not in a lambda.
    """
    json = f"TRY_CAST({subject} AS JSON)"
    found = _read(json, names)
    plain = f"regexp_full_match(_json, {text(_PLAIN)}) AND strlen(_json) <= {LONGEST_NAME}"
    quoted = f"regexp_replace(_json, {text(_QUOTED)}, '\"\\1\\2\"', 'g')"
    pointers = ", ".join(text("/" + name.replace("~", "~0").replace("/", "~1")) for name in names)
    looked_at = (
        f"CASE WHEN json_type(_json) <> 'OBJECT' OR list_unique(json_keys(_json)) < len(json_keys(_json)) THEN NULL "
        f"WHEN {plain} THEN {_read('_json', names)} "
        f"WHEN {_strict('_json')} AND NOT list_has_any(json_type(_json, [{pointers}]), ['OBJECT', 'ARRAY']) "
        f"THEN {_read(quoted, names)} END"
    )
    return (
        f"CASE WHEN CAST(to_json({found}) AS VARCHAR) = CAST({json} AS VARCHAR) THEN {found} "
        f"WHEN {json} IS NOT NULL THEN list_transform([{json}], lambda _json: {looked_at})[1] END"
    )


def _read(json: str, names: list[str]) -> str:
    pairs = ", ".join(f'{_json_text(name)}: "VARCHAR"' for name in names)
    return f"json_transform({json}, {text('{' + pairs + '}')})"


def _json_text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub("[\x00-\x1f]", lambda found: f"\\u{ord(found[0]):04x}", escaped) + '"'


def _strict(json: str) -> str:
    """Whether a text that DuckDB takes for JSON is JSON, and within the limits."""
    bare = f"regexp_replace({json}, {text(_TEXT)}, '0', 'g')"
    named = f"regexp_extract_all({json}, {text(f'{_TEXT}(?:{_BLANK}:)?')})"
    long_name = f"lambda _name: ends_with(_name, ':') AND strlen(_name) > {LONGEST_NAME}"
    brackets = f"regexp_replace({bare}, '[^{{}}\\[\\]]+', '', 'g')"
    step = "lambda _mark: CASE WHEN _mark IN ('{', '[') THEN 1 ELSE -1 END"
    walked = f"list_transform(list_transform(string_split({brackets}, ''), {step}), lambda _at: [_at, _at])"
    deeper = "lambda _left, _right: [_left[1] + _right[1], greatest(_left[2], _left[1] + _right[1])]"
    return (
        f"NOT regexp_matches({bare}, {text(_LENIENT)}) "
        f"AND (strlen({json}) <= {LONGEST_NAME} OR len(list_filter({named}, {long_name})) = 0) "
        f"AND (strlen({json}) <= {2 * DEEPEST} OR strlen({brackets}) <= {2 * DEEPEST} "
        f"OR list_reduce({walked}, {deeper})[2] <= {DEEPEST})"
    )


def _spark(subject: str, names: list[str]) -> str:
    """Spark gets a text only if each of its tokens is one of JSON, marked, in an array with the mark's own object."""
    named = f"regexp_extract_all(t, {text_literal(f'{_JAVA_SKIPPED}(?:{_BLANK}:)?')}, 0)"
    short = f"NOT exists({named}, n -> endswith(n, ':') AND octet_length(n) > {LONGEST_NAME})"
    strict = f"t RLIKE {text_literal(_JAVA_STRICT)} AND (octet_length(t) <= {LONGEST_NAME} OR {short})"
    marked = f"concat('[', regexp_replace(t, {text_literal(_JAVA_MARKED)}, '\"s$1$2\"'), ',{{\"e\":\"\"}}]')"
    options = ", ".join(f"{text_literal(name)}, {text_literal(value)}" for name, value in _OPTIONS.items())
    read = f"from_json({marked}, 'array<map<string,string>>', map({options}))"
    alone = "size(m) = 2 AND try_element_at(try_element_at(m, 2), 'e') = ''"
    keys = "map_keys(try_element_at(m, 1))"
    values = [f"try_element_at(try_element_at(m, 1), {text_literal('s' + name)})" for name in names]
    nested = " OR ".join(f"coalesce(left({value}, 1) IN ('{{', '['), false)" for value in values)
    packed = ", ".join(
        f"{text_literal(name)}, CASE WHEN {value} IN {_WORDS} THEN {value} ELSE substring({value}, 2) END"
        for name, value in zip(names, values, strict=True)
    )
    whole = f"{alone} AND size(array_distinct({keys})) = size({keys}) AND NOT ({nested})"
    return (
        f"get(transform(transform(array({subject}), t -> if({strict}, {read}, NULL)), "
        f"m -> if({whole}, named_struct({packed}), NULL)), 0)"
    )


def _settled(call: Call) -> Typed:
    """DuckDB moves a filter below the columns it looks at, and computes all that they are made of anew, term by term.

    It does not where chance is in them; nothing is below zero here.
    """
    call.expect(1)
    condition = call.boolean(0)
    call.translator.replace(call.node, exp.Paren(this=call.node.expressions[0].copy()))
    return call.give(f"({condition.sql} OR random() < 0)", BOOL)


FUNCTIONS = {
    "settled": Function("not Spark's: the condition itself, computed before rows are chosen by it", _settled),
    "from_json": Function(
        "one JSON object (RFC 8259, nothing beside it, no name twice) as a struct of STRING members, numbers as "
        "written; else NULL, and a failed cast in select_expr; so is a member that is an object or array",
        _from_json,
    ),
}
