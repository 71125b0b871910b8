"""Texts for from_json: edges written out, valid documents at random, and mutants of valid documents; and an oracle.

What belongs here: the texts, always the same for a seed, and what from_json must make of a text. What does not: tests.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

MEMBERS = ("a", "Adj Close", "Date")
SCHEMA = "a STRING, `Adj Close` STRING, Date STRING"
DEEPEST, LONGEST_NAME = 500, 10_000

EDGES: tuple[str, ...] = (
    '{"a":"x"}', ' {"a":"x"} ', '{}', ' { } ', '{"a" : "x" , "b":2}\r\n\t ', '{"A":"x"}', '{"\\u0061":"x"}', '{"sa":"x"}',
    '{"Adj Close":"1.5","Date":"2024-01-05","a":"q"}', '{"Adj\\u0020Close":1}', '{"":"x","a":"1"}', '{"a":""}',
    # more than one object, or none
    '{"a":"x"} x', '{"a":"x"}{"a":"y"}', '{"a":"x"},{"a":"y"}', '{"a":"x"}]', '{"a":"x"}}', '{"a":"x"},{"e":""}]',
    '{"a":"x"},{"e":""}] {', '{"e":""}', '{"a":"x"},{"se":""}', '{"a":"1"}}{', '{"a":"x"}//c', '[1]', '[{"a":"x"}]',
    '"x"', '1', 'null', 'true', '', '  ', '{"a":"x', '{"a":"x"', '\ufeff{"a":1}', '{"a":"x"}\ufeff', '\x0b{"a":1}',
    '\f{"a":1}', '\xa0{"a":1}', '{"a":"b"}\u2028', '{"a":"x"}\x00',
    # not JSON, though some reader takes it
    "{'a':'x'}", '{a:1}', '{"a":NaN}', '{"a":nan}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":-NaN}', '{"b":NaN}',
    '{"b":[inf]}', '{"a":1,}', '{"a":"1",}', '{"a":[1,]}', '{"b":[1,],"a":2}', '{"b":[1 , ] }', '{,}', '{"a":1,,"b":2}',
    '{/*c*/"a":1}', '//c\n{"a":1}', '#c\n{"a":1}', '{"a":"x\ty"}', '{"a":"x\ny"}', '{"a":"x\x00y"}', '{"a":True}',
    '{"a":truex}', '{"a":"x""b":1}', '{"a" "x"}', '{"a":}', '{"a":1 2}', '{"a":1"b":2}', '{"a":truefalse}',
    '{"a":true"b":1}',
    # numbers
    '{"a":1e5}', '{"a":1E+5}', '{"a":-0}', '{"a":-0.0}', '{"a":1.10}', '{"a":12345678901234567890.123}', '{"a":1e400}',
    '{"a":123456789012345678901234567890}', '{"a":1e-400}', '{"a":0.000001}', '{"a":0.1}', '{"a":0.10}', '{"a":0.01}',
    '{"a":999999999.999999}', '{"a":0}', '{"a":-12.5}', '{"a":01}', '{"a":-01}', '{"a":1.}', '{"a":.5}', '{"a":+1}',
    '{"a":0x10}', '{"a":-}', '{"a":--1}', '{"a":1-2}', '{"a":1.2.3}', '{"a":1e}', '{"a":1e5e5}', '{"a":1_000}',
    '{"a":1d}',
    # what is no text, and text that looks like it
    '{"a":true}', '{"a":false}', '{"a":null}', '{"a":{"b": 1}}', '{"a":[1, 2]}', '{"a":[]}', '{"a":{}}',
    '{"Adj Close":{"x":1}}', '{"a":"true"}', '{"a":"null"}', '{"a":"[1]"}', '{"a":"{}"}', '{"a":"sx"}',
    '{"b":{"c":1.50,"d":[-0]},"a":"NaN, inf,]"}',
    # names that come twice
    '{"a":"x","a":"y"}', '{"a":null,"a":"y"}', '{"z":1,"z":2,"a":"x"}', '{"a":"x","\\u0061":"y"}',
    '{"b":{"a":1,"a":2},"a":"x"}',
    # escapes
    '{"a":"\\u0000"}', '{"\\u0000":"x","a":"1"}', '{"a":"\\ud800"}', '{"a":"\\ud83e\\udd26"}', '{"a":"\\uD83E\\uDD26"}',
    '{"a":"\\udd26\\ud83e"}', '{"a":"\\ud83ex"}', '{"a":"\\ud83e\\u0041"}', '{"\\ud800":"x"}', '{"a":"\\/"}',
    '{"a":"\\\\"}', '{"a":"\\\\\\""}', '{"a":"\\x"}', '{"a":"\\\'"}', '{"a":"\\u12"}', '{"a":"\\U0041"}',
    '{"a":"\\u{41}"}', '{"a":"\\u00e9\\b\\f\\n\\r\\t"}', '{"a":"\x7f"}', '{"a":"\u2028"}', '{"a":"\x85\u2029"}',
    '{"a":"🤦🏼\\u00e9"}', '{"a":"\\uFFFF\\uFFFE"}', '{"a":"\uffff"}', '{"a":"x"\\u0020}',
    # limits
    '{"b":' + "[" * 499 + "]" * 499 + ',"a":"1"}', '{"b":' + "[" * 500 + "]" * 500 + ',"a":"1"}',
    '{"b":' + "[" * 2000 + "]" * 2000 + ',"a":"1"}', '{"b":' + '{"c":' * 498 + "[1]" + "}" * 498 + ',"a":1.50}',
    '{"b":' + '{"c":' * 499 + "[1]" + "}" * 499 + ',"a":1.50}', '{"b":[' + ",".join(["[{}]"] * 600) + '],"a":"1"}',
    '{"a":' + "[" * 1200 + "]" * 1200 + "}", '{"' + "k" * 9997 + '":1,"a":"1"}', '{"' + "k" * 9998 + '":1,"a":"1"}',
    '{"b":{"' + "k" * 60000 + '"   :1},"a":"1"}', '{"b":"' + "k" * 60000 + '","a":"1:"}',
)  # fmt: skip
"""Texts that some reader gets wrong, or that stand at a limit."""

HUGE: tuple[str, ...] = (
    '{"z":"' + "[" * 3000 + '","a":1.50}',
    '{"z":"' + "\\n" * 100_000 + '","a":"1"}',
    '{"z":"' + "é" * 100_000 + '","a":"1","Date":-0}',
    '{"z":[' + ",".join(map(str, range(20_000))) + '],"a":-0}',
    "{" + ",".join(f'"k{i}":{i}' for i in range(5000)) + ',"a":"1"}',
    '{"a":"' + "x" * 2_000_000 + '"}',
)
"""Long texts, at which a pattern may run out of stack."""

_SEEDS = (
    '{"a":"x","Adj Close":"1228.099976","Date":"1999-01-04"}',
    '{"a": 1.50, "Adj Close": -0, "Date": null, "b": {"c": [1, 2.0, {"d": "e"}], "a": true}}',
    '{"a":"q\\"\\\\\\/\\u00e9\\ud83e\\udd26\\n","Date":false,"z":[]}',
    ' {\n "Date" : "é🤦" ,\t"a" : 1e5 }\r\n',
    '{"a":"NaN","Adj Close":12345678901234567890.5,"Date":{"a":"1"}}',
    '{"z":"[{,]}","a":"1,}"}',
)
_PIECES = [*('{}[]",:\\' * 3), *" \t\n\r", *"0123456789.eE+-", *"unrtfabdxNIs'#*", "\x00", "\x01", "\x7f", "\x85",
           "\u2028", "\ufeff", "\xa0", "é", "🤦", "null", "true", "false", "NaN", "Infinity", "\\u0041", "\\ud83e",
           "\\udd26", '"a"', '"Date":', '{"e":""}', ',{"e":""}]', "{}", "[]", "//", "/*", "*/", '"a":1,']  # fmt: skip
_LETTERS = ["a", "b", "\\n", "\\u0000", '\\"', "\\\\", "é", "🤦", "\\ud83e\\udd26", "\\/", "/", *",}]{[:1 ", "NaN"]
_NUMBERS = ["0", "-0", "1", "-1.50", "1e5", "1E-7", "0.001", "123456789.123456", "1234567890.5", "0.5", "0.50", "100.0",
            "-0.0", "99999999999999999999", "1.0e+10", "5e-324", "9007199254740993", "0.30000000000000004", "-12.5",
            "9223372036854775808", "-9223372036854775809", "18446744073709551616"]  # fmt: skip


def mutants(count: int, seed: int) -> Iterator[str]:
    """Valid documents in which characters were put in, taken out, replaced, repeated, or which were cut."""
    chance = random.Random(seed)
    for _ in range(count):
        found = list(chance.choice(_SEEDS))
        for _ in range(chance.choice([0, 1, 1, 1, 2, 2, 3, 6])):
            at, kind = chance.randrange(len(found) + 1), chance.random()
            if kind < 0.4:
                found[at:at] = [chance.choice(_PIECES)]
            elif kind < 0.6:
                del found[at : at + chance.choice([1, 1, 1, 2, 5])]
            elif kind < 0.85:
                found[at : at + 1] = [chance.choice(_PIECES)]
            elif kind < 0.92:
                other = chance.randrange(len(found) + 1)
                found[at:at] = found[min(at, other) : max(at, other)]
            else:
                found = found[:at] if kind < 0.96 else found[at:]
        yield "".join(found)


def bytes_of_text(count: int, seed: int) -> Iterator[str]:
    """Random bytes that are UTF-8."""
    chance = random.Random(seed)
    while count:
        try:
            yield chance.randbytes(chance.randrange(1, 6)).decode()
            count -= 1
        except UnicodeDecodeError:
            pass


def documents(count: int, seed: int) -> Iterator[str]:
    """Objects by the grammar, with blanks, escapes, all kinds of members, and now and then a name that comes twice."""
    chance = random.Random(seed)

    def blank() -> str:
        return chance.choice(["", "", "", "", " ", "\n", "\t"])

    def string() -> str:
        return '"' + "".join(chance.choice(_LETTERS) for _ in range(chance.randrange(6))) + '"'

    def value(depth: int) -> str:
        kind = chance.random()
        if kind < 0.4:
            return string()
        if kind < 0.65:
            return chance.choice(_NUMBERS)
        if kind < 0.8 or depth > 2:
            return chance.choice(["true", "false", "null"])
        name = (lambda: "") if kind < 0.9 else (lambda: f"{string()}{blank()}:")
        inner = ",".join(f"{blank()}{name()}{blank()}{value(depth + 1)}" for _ in range(chance.randrange(3)))
        return f"[{inner}{blank()}]" if kind < 0.9 else f"{{{inner}{blank()}}}"

    for _ in range(count):
        names = [name for name in (*MEMBERS, "b", "c") if chance.random() < 0.7]
        if chance.random() < 0.3:
            chance.shuffle(names)
        if chance.random() < 0.05:
            names.append("a")
        pairs = (
            f'{blank()}"{name}"{blank()}:{blank()}{value(0 if name in "bc" or chance.random() < 0.1 else 3)}'
            for name in names
        )
        yield f"{blank()}{{{','.join(pairs)}{blank()}}}{blank()}"


def corpus(count: int, seed: int) -> list[str | None]:
    """NULL, the edges, long texts, and `count` of each kind of random text."""
    chances = (*mutants(count, seed), *documents(count, seed), *bytes_of_text(count // 4, seed))
    return [None, *EDGES, *HUGE, *chances]


class _Written(str):
    """A number as written."""


def expected(text: str | None) -> list[str | None] | None:
    """What `from_json(text, SCHEMA)` must give: the members by the order of `MEMBERS`, or None."""
    if text is None:
        return None
    try:
        found = json.JSONDecoder(
            object_pairs_hook=lambda pairs: {"pairs": pairs},
            parse_int=_Written,
            parse_float=_Written,
            parse_constant=_no_constant,
        ).decode(text)
        _check(found, 1)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    given = dict(found["pairs"])
    wanted = [given.get(name) for name in MEMBERS]
    if len(given) != len(found["pairs"]) or any(isinstance(value, dict | list) for value in wanted):
        return None
    words = {True: "true", False: "false"}
    return [words[value] if isinstance(value, bool) else None if value is None else str(value) for value in wanted]


def _no_constant(written: str) -> None:
    raise ValueError(written)


def _check(value: Any, depth: int) -> None:
    """Raise ValueError beyond the limits, and for half of a surrogate pair."""
    if isinstance(value, str):
        value.encode()
    if isinstance(value, dict | list) and depth > DEEPEST:
        raise ValueError("too deep")
    for name, inner in value["pairs"] if isinstance(value, dict) else ():
        if len(json.dumps(name, ensure_ascii=False).encode()) > LONGEST_NAME - 1:
            raise ValueError("too long")
        name.encode()
        _check(inner, depth + 1)
    for inner in value if isinstance(value, list) else ():
        _check(inner, depth + 1)
