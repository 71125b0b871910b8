"""Text: parts, search, patterns, padding, digests.

What does not belong here: LIKE and RLIKE as operators (`expressions.py`), dates as text (`functions_time.py`).
"""

from __future__ import annotations

import re
from functools import cache

import pyarrow as pa
from sqlglot import exp

from lakehouse_assets.sql import patterns
from lakehouse_assets.sql.functions import Call, Function
from lakehouse_assets.sql.typed import BINARY, BOOL, INT, STRING, Typed, is_list, refused, text

_PLAIN = re.compile(r"[^\\.\[\]{}()*+?^$|]|\\[\\.\[\]{}()*+?^$|]")


def _concat(call: Call) -> Typed:
    call.expect(1, 100)
    return call.give("(" + " || ".join(call.text(i).sql for i in range(len(call.args))) + ")", STRING)


def _concat_ws(call: Call) -> Typed:
    call.expect(1, 100)
    if any(is_list(value.type) for value in call.args):
        raise refused("concat_ws() takes no arrays here", "name the values one by one")
    values = [call.text(i).sql for i in range(len(call.args))]
    if len(values) == 1:
        return call.give(f"CASE WHEN {values[0]} IS NOT NULL THEN '' END", STRING)
    return call.give(f"concat_ws({', '.join(values)})", STRING)


@cache
def _expanding() -> dict[str, str]:
    """The letters whose upper case is several letters (`ß`, `ﬁ`, …), which DuckDB leaves alone."""
    return {chr(code): chr(code).upper() for code in range(0x80, 0x10000) if len(chr(code).upper()) > 1}


def _upper(call: Call) -> Typed:
    call.expect(1)
    value = call.text(0).sql
    letters = _expanding()
    entries = ", ".join(f"{text(letter)}: {text(upper)}" for letter, upper in letters.items())
    one_by_one = (
        f"array_to_string(list_transform(regexp_extract_all({value}, '(?s).'), "
        f"lambda c: coalesce(MAP {{{entries}}}[c], upper(c))), '')"
    )
    special = text(f"[{''.join(letters)}]")
    return call.give(f"CASE WHEN regexp_matches({value}, {special}) THEN {one_by_one} ELSE upper({value}) END", STRING)


CASED = "\\p{Lu}\\p{Ll}\\p{Lt}"
IGNORED = "\\p{Mn}\\p{Me}\\p{Cf}\\p{Lm}\\p{Sk}'.:·‘’․‧"
_FINAL_SIGMA = f"([{CASED}][{IGNORED}]*)Σ([{IGNORED}]*(?:[^{CASED}{IGNORED}]|\\z))"


def lower(value: str) -> str:
    """Lower case: `İ` becomes two characters, and `Σ` at the end of a word `ς`, which DuckDB does not do."""
    careful = f"replace(regexp_replace({value}, {text(_FINAL_SIGMA)}, '\\1ς\\2', 'g'), 'İ', 'i̇')"
    return f"CASE WHEN regexp_matches({value}, '[İΣ]') THEN lower({careful}) ELSE lower({value}) END"


def _lower(call: Call) -> Typed:
    call.expect(1)
    return call.give(lower(call.text(0).sql), STRING)


def _trim(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(1)
        return call.give(f"{function}({call.text(0).sql}, ' ')", STRING)

    return build


def _length(call: Call) -> Typed:
    call.expect(1)
    if call.args[0].type == BINARY:
        return call.give_cast(f"octet_length({call.args[0].sql})", INT)
    return call.give_cast(f"length({call.text(0).sql})", INT)


def _substring(call: Call) -> Typed:
    call.expect(2, 3)
    value = call.text(0).sql
    start, count = call.args[1], call.args[2] if len(call.args) == 3 else None
    plain = (start.literal or "").isdigit() and start.literal != "0"
    if plain and (count is None or (count.literal or "").isdigit()):
        rest = "" if count is None else f", {count.sql}"
        return call.give(f"substring({value}, {start.sql}{rest})", STRING)
    at = call.integer(1, pa.int64()).sql
    begin = f"(CASE WHEN {at} > 0 THEN {at} - 1 WHEN {at} < 0 THEN length({value}) + {at} ELSE 0 END)"
    if count is None:
        return call.give(f"substring({value}, greatest({begin}, 0) + 1)", STRING)
    stop = f"({begin} + {call.integer(2, pa.int64()).sql})"
    size = f"greatest({stop} - greatest({begin}, 0), 0)"
    known = f"{at} IS NOT NULL AND {count.sql} IS NOT NULL AND {value} IS NOT NULL"
    return call.give(f"CASE WHEN {known} THEN substring({value}, greatest({begin}, 0) + 1, {size}) END", STRING)


def _end(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(2)
        count = call.integer(1, pa.int64()).sql
        value = call.text(0).sql
        return call.give(f"CASE WHEN {count} IS NOT NULL THEN {function}({value}, greatest({count}, 0)) END", STRING)

    return build


def _replace(call: Call) -> Typed:
    call.expect(2, 3)
    new = call.string(2).sql if len(call.args) == 3 else "''"
    return call.give(f"replace({call.string(0).sql}, {call.string(1).sql}, {new})", STRING)


def _contains(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(2)
        return call.give(f"{function}({call.string(0).sql}, {call.string(1).sql})", BOOL)

    return build


def _instr(call: Call) -> Typed:
    call.expect(2)
    return call.give_cast(f"instr({call.string(0).sql}, {call.string(1).sql})", INT)


def _locate(call: Call) -> Typed:
    call.expect(2)
    return call.give_cast(f"instr({call.string(1).sql}, {call.string(0).sql})", INT)


def _pad(function: str):  # type: ignore[no-untyped-def]
    def build(call: Call) -> Typed:
        call.expect(2, 3)
        padding = call.literal(2) if len(call.args) == 3 else " "
        size = call.whole(1)
        if not padding or size < 0:
            raise refused(f"{call.name}() needs a size from 0 and a padding that is not empty")
        return call.give(f"{function}({call.text(0).sql}, {size}, {text(padding)})", STRING)

    return build


def _repeat(call: Call) -> Typed:
    call.expect(2)
    count = call.integer(1, pa.int64()).sql
    return call.give(
        f"CASE WHEN {count} IS NOT NULL THEN repeat({call.string(0).sql}, greatest({count}, 0)) END", STRING
    )


def _split(call: Call) -> Typed:
    call.expect(2)
    pattern = call.literal(1)
    parts = _PLAIN.findall(pattern)
    if not pattern or "".join(parts) != pattern:
        raise refused(f"split() by the pattern {pattern!r} is not the same on both engines", "split by plain text")
    separator = "".join(part[-1] for part in parts)
    return call.give(f"string_split({call.string(0).sql}, {text(separator)})", pa.list_(STRING))


def _md5(call: Call) -> Typed:
    call.expect(1)
    return call.give(f"md5({call.string(0).sql})", STRING)


def _sha1(call: Call) -> Typed:
    call.expect(1)
    return call.give(f"sha1({call.string(0).sql})", STRING)


def _sha2(call: Call) -> Typed:
    call.expect(2)
    if call.whole(1) not in (0, 256):
        raise refused(f"sha2() with {call.whole(1)} bits is not on both engines", "use sha2(x, 256)")
    return call.give(f"sha256({call.string(0).sql})", STRING)


def _pattern(call: Call, index: int) -> str:
    """The regular expression in an argument, made portable; Spark's text gets it, too."""
    found = patterns.regex(call.literal(index))
    call.translator.replace(call.node.expressions[index], exp.Literal.string(found))
    return found


def _rlike(call: Call) -> Typed:
    call.expect(2)
    return call.give(f"regexp_matches({call.string(0).sql}, {text(_pattern(call, 1))})", BOOL)


def _regexp_replace(call: Call) -> Typed:
    call.expect(3)
    pattern = _pattern(call, 1)
    if patterns.matches_empty(pattern):
        raise refused(f"regexp_replace(): the pattern {call.literal(1)!r} matches the empty text", "use + instead of *")
    new = patterns.replacement(call.literal(2))
    return call.give(f"regexp_replace({call.string(0).sql}, {text(pattern)}, {text(new)}, 'g')", STRING)


def _regexp_extract(call: Call) -> Typed:
    call.expect(2, 3)
    pattern = _pattern(call, 1)
    group = call.whole(2) if len(call.args) == 3 else 1
    if not 0 <= group <= re.compile(pattern.replace("\\z", "\\Z")).groups:
        raise refused(
            f"regexp_extract(): the pattern {call.literal(1)!r} has no group {group}", "name a group that it has"
        )
    return call.give(f"regexp_extract({call.string(0).sql}, {text(pattern)}, {group})", STRING)


def _like(call: Call) -> Typed:
    call.expect(2)
    return call.translator.like(call.node, call.string(0), call.args[1], "\\", fold=call.name == "ilike")


FUNCTIONS = {
    "concat": Function("NULL if one is NULL; numbers but doubles, dates and booleans become text", _concat),
    "concat_ws": Function("joined by the first argument; NULL is skipped", _concat_ws),
    "upper": Function("by Unicode's full mapping: ß becomes SS", _upper),
    "ucase": Function("by Unicode's full mapping: ß becomes SS", _upper),
    "lower": Function("by Unicode's full mapping: Σ at the end of a word becomes ς", _lower),
    "lcase": Function("by Unicode's full mapping: Σ at the end of a word becomes ς", _lower),
    "trim": Function("without spaces (only those) around it", _trim("trim")),
    "ltrim": Function("without spaces (only those) before it", _trim("ltrim")),
    "rtrim": Function("without spaces (only those) after it", _trim("rtrim")),
    "length": Function("the number of characters (of bytes, for BINARY)", _length),
    "char_length": Function("the number of characters (of bytes, for BINARY)", _length),
    "substring": Function("from a position (1 is the first, negative from the end)", _substring),
    "substr": Function("from a position (1 is the first, negative from the end)", _substring),
    "left": Function("the first characters", _end("left")),
    "right": Function("the last characters", _end("right")),
    "replace": Function("every occurrence replaced", _replace),
    "startswith": Function("whether it begins so", _contains("starts_with")),
    "endswith": Function("whether it ends so", _contains("ends_with")),
    "contains": Function("whether it is in there", _contains("contains")),
    "instr": Function("the position of the second in the first, 0 if it is not there", _instr),
    "locate": Function("the position of the first in the second, 0 if it is not there", _locate),
    "lpad": Function("padded or cut to a literal size", _pad("lpad")),
    "rpad": Function("padded or cut to a literal size", _pad("rpad")),
    "repeat": Function("several times", _repeat),
    "split": Function("parts between plain text; all of them, empty ones included", _split),
    "md5": Function("of the UTF-8 bytes, in hexadecimal", _md5),
    "sha1": Function("of the UTF-8 bytes, in hexadecimal", _sha1),
    "sha": Function("of the UTF-8 bytes, in hexadecimal", _sha1),
    "sha2": Function("SHA-256 of the UTF-8 bytes, in hexadecimal", _sha2),
    "rlike": Function("whether a literal pattern is found", _rlike),
    "regexp_like": Function("whether a literal pattern is found", _rlike),
    "regexp": Function("whether a literal pattern is found", _rlike),
    "regexp_replace": Function("every match of a literal pattern replaced; $1 is a group", _regexp_replace),
    "regexp_extract": Function("a group of the first match of a literal pattern, '' without a match", _regexp_extract),
    "like": Function("as the operator LIKE, with a literal pattern", _like),
    "ilike": Function("as the operator ILIKE, with a literal pattern", _like),
}
