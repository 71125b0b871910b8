"""The options of the file formats: Spark's own names, each honoured, or refused by name.

What belongs here: which options exist, what their values may be, what they mean together.
What does not: reading anything.

An option that Spark has and that changes nothing here is accepted with the value that Spark takes by default; with
another value it is refused, because ignoring it would read other rows than Spark would. Names are compared without
regard to case, as Spark does.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from lakehouse_assets.errors import SettingsError

if TYPE_CHECKING:
    from lakehouse_assets.entities.model import Entity

FORMATS = ("csv", "json", "parquet", "avro", "orc")
MAX_FILES = 1000
"""How many files one batch of discovered files takes unless `cloudFiles.maxFilesPerTrigger` says otherwise."""


@dataclass(frozen=True)
class FileOptions:
    """What an entity's `read_options` mean, with Spark's defaults.

    Attributes:
        recursive: `recursiveFileLookup`; `None` where it is not given.
        unneeded: options that were given and have no meaning here.
        zone: the time zone of texts and values without one, and whether anybody said so.
    """

    format: str
    header: bool = False
    separator: str = ","
    quote: str = '"'
    escape: str = "\\"
    encoding: str = "utf-8"
    null_value: str = ""
    comment: str = ""
    infer_schema: bool = False
    enforce_schema: bool = False
    multi_line: bool = False
    mode: Literal["PERMISSIVE", "FAILFAST"] = "PERMISSIVE"
    date_format: str | None = None
    timestamp_format: str | None = None
    path_glob_filter: str | None = None
    recursive: bool | None = None
    max_files: int = MAX_FILES
    zone: str = "UTC"
    zone_is_default: bool = True
    unneeded: tuple[str, ...] = field(default=())


def file_options(entity: Entity) -> FileOptions:
    """The options of `entity`.

    Raises:
        SettingsError: an option is unknown, is one that this version does not honour, or has an illegal value; the
            message names it and the nearest or the legal ones.
    """
    discovered = entity.source_format == "cloudFiles"
    given = {name.lower(): (name, text) for name, text in entity.read_options.items()}
    if len(given) < len(entity.read_options):
        raise _fault(entity, "two read_options differ in upper and lower case only", sorted(entity.read_options))
    kind = _format(entity, given) if discovered else entity.source_format
    known = _known(kind, discovered)
    values: dict[str, Any] = {}
    unneeded = []
    for lower, (name, text) in given.items():
        if lower not in known:
            raise _unknown(entity, kind, name, discovered, known)
        rule = known[lower][1]
        if isinstance(rule, _Inert):
            unneeded += rule.check(entity, name, text)
        elif rule.target:
            values[rule.target] = rule.read(entity, name, text)
    zone = values.pop("zone", None) or entity.lakehouse.source_timezone
    return FileOptions(
        format=kind, zone=zone or "UTC", zone_is_default=zone is None, unneeded=tuple(unneeded), **values
    )


@dataclass(frozen=True)
class _Honoured:
    """An option with a meaning: the field it fills, and how its text is read."""

    target: str
    parse: Callable[[str], Any]
    legal: tuple[str, ...] = ()

    def read(self, entity: Entity, name: str, text: str) -> Any:
        try:
            return self.parse(text)
        except (ValueError, LookupError) as error:
            raise _fault(entity, f"option {name!r}: {error}", text, self.legal) from None


@dataclass(frozen=True)
class _Inert:
    """An option of Spark's that is not honoured: legal with its default value only.

    Attributes:
        default: the value that changes nothing; `None`: no value does; `"*"`: any value, the option is not needed here.
        instead: what to do instead.
    """

    default: str | None = None
    instead: str = "leave it out"

    def check(self, entity: Entity, name: str, text: str) -> list[str]:
        if self.default == "*":
            return [name]
        if self.default is not None and text.lower() == self.default.lower():
            return []
        raise SettingsError(
            f"entity {entity.entity_id!r} ({entity.destination}): the option {name!r} exists in Spark and is not "
            "honoured here",
            value=text,
            choices=() if self.default is None else (self.default,),
            fix=self.instead,
        )


def _truth(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text.lower() == "true"


def _one_character(text: str) -> str:
    if len(text.replace("\\t", "\t").encode()) != 1:
        raise ValueError("must be one character (ASCII)")
    return text.replace("\\t", "\t")


def _one_or_none(text: str) -> str:
    return "" if text in ("", "\0", "\\0", "\\u0000") else _one_character(text)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise ValueError("is not a number from 1 up")
    return int(text)


def _encoding(text: str) -> str:
    return codecs.lookup(text).name


def _mode(text: str) -> str:
    if text.upper() == "DROPMALFORMED":
        raise ValueError("rows are never dropped silently; PERMISSIVE keeps malformed rows in quarantine")
    if text.upper() not in ("PERMISSIVE", "FAILFAST"):
        raise ValueError("is not a mode")
    return text.upper()


def _zone(text: str) -> str:
    from zoneinfo import ZoneInfo

    return ZoneInfo(text).key


_TRUTH = ("true", "false")
_ANY: Mapping[str, _Honoured | _Inert] = {
    "pathGlobFilter": _Honoured("path_glob_filter", str),
    "recursiveFileLookup": _Honoured("recursive", _truth, _TRUTH),
    "ignoreCorruptFiles": _Inert("false", "mend or remove the broken file: its rows would be missing silently"),
    "ignoreMissingFiles": _Inert("false", "leave it out: a file that vanishes while it is read is an error"),
    "modifiedBefore": _Inert(instead="choose the files with pathGlobFilter or a glob in source"),
    "modifiedAfter": _Inert(instead="choose the files with pathGlobFilter or a glob in source"),
    "rescuedDataColumn": _Inert(
        instead="say `lakehouse: {evolution: rescue}`, or rows that do not fit are quarantined"
    ),
    "readerCaseSensitive": _Inert("true"),
}
_TEXT: Mapping[str, _Honoured | _Inert] = {
    "encoding": _Honoured("encoding", _encoding),
    "charset": _Honoured("encoding", _encoding),
    "multiLine": _Honoured("multi_line", _truth, _TRUTH),
    "mode": _Honoured("mode", _mode, ("PERMISSIVE", "FAILFAST")),
    "dateFormat": _Honoured("date_format", str),
    "timestampFormat": _Honoured("timestamp_format", str),
    "timeZone": _Honoured("zone", _zone),
    "timestampNTZFormat": _Inert(instead="timestampFormat holds for both kinds of timestamps"),
    "lineSep": _Inert("\n", "leave it out: \\n, \\r\\n and \\r all end a line"),
    "locale": _Inert("en-US"),
    "samplingRatio": _Inert("1.0", "leave it out: all rows are looked at"),
    "columnNameOfCorruptRecord": _Inert(instead="leave it out: malformed rows go to quarantine with their text"),
    "badRecordsPath": _Inert(instead="leave it out: malformed rows go to quarantine with their text"),
    "enableDateTimeParsingFallback": _Inert("false"),
}
_CSV: Mapping[str, _Honoured | _Inert] = {
    "header": _Honoured("header", _truth, _TRUTH),
    "sep": _Honoured("separator", _one_character),
    "delimiter": _Honoured("separator", _one_character),
    "quote": _Honoured("quote", _one_or_none),
    "escape": _Honoured("escape", _one_or_none),
    "comment": _Honoured("comment", _one_or_none),
    "nullValue": _Honoured("null_value", str),
    "inferSchema": _Honoured("infer_schema", _truth, _TRUTH),
    "enforceSchema": _Honoured("enforce_schema", _truth, _TRUTH),
    "emptyValue": _Inert("", "leave it out: a quoted empty text is an empty text"),
    "ignoreLeadingWhiteSpace": _Inert("false", "trim with select_expr: trim(column) AS column"),
    "ignoreTrailingWhiteSpace": _Inert("false", "trim with select_expr: trim(column) AS column"),
    "nanValue": _Inert("NaN"),
    "positiveInf": _Inert("Inf"),
    "negativeInf": _Inert("-Inf"),
    "maxColumns": _Inert("20480"),
    "maxCharsPerColumn": _Inert("-1"),
    "prefersDate": _Inert("true"),
    "preferDate": _Inert("true"),
    "charToEscapeQuoteEscaping": _Inert(instead="leave it out: the escape character escapes itself inside quotes"),
    "unescapedQuoteHandling": _Inert(instead="leave it out: such rows go to quarantine as malformed"),
}
_JSON: Mapping[str, _Honoured | _Inert] = {
    "inferSchema": _Inert("true"),
    "primitivesAsString": _Inert("false", "declare source_schema with STRING columns"),
    "prefersDecimal": _Inert("false", "declare source_schema with DECIMAL columns"),
    "inferTimestamp": _Inert("false", "declare source_schema with TIMESTAMP columns"),
    "dropFieldIfAllNull": _Inert("false"),
    "allowComments": _Inert("false"),
    "allowUnquotedFieldNames": _Inert("false"),
    "allowSingleQuotes": _Inert("true", "leave it out: single quotes are not JSON; such rows go to quarantine"),
    "allowNumericLeadingZeros": _Inert("false"),
    "allowNonNumericNumbers": _Inert("true"),
    "allowBackslashEscapingAnyCharacter": _Inert("false"),
    "allowUnquotedControlChars": _Inert("false"),
}
_COLUMNAR: Mapping[str, Mapping[str, _Honoured | _Inert]] = {
    "parquet": {
        "mergeSchema": _Inert("true", "leave it out: files are always united by column name"),
        "datetimeRebaseMode": _Inert("CORRECTED"),
        "int96RebaseMode": _Inert("CORRECTED"),
    },
    "orc": {"mergeSchema": _Inert("true", "leave it out: files are always united by column name")},
    "avro": {
        "mergeSchema": _Inert("true", "leave it out: files are always united by column name"),
        "avroSchema": _Inert(instead="declare the columns in source_schema"),
        "ignoreExtension": _Inert("true", "choose the files with pathGlobFilter"),
        "datetimeRebaseMode": _Inert("CORRECTED"),
    },
}
_DISCOVERY: Mapping[str, _Honoured | _Inert] = {
    "cloudFiles.format": _Honoured("", str, FORMATS),
    "cloudFiles.maxFilesPerTrigger": _Honoured("max_files", _count),
    "maxFilesPerTrigger": _Honoured("max_files", _count),
    "cloudFiles.inferColumnTypes": _Honoured("infer_schema", _truth, _TRUTH),
    "cloudFiles.schemaLocation": _Inert("*"),
    "cloudFiles.validateOptions": _Inert("true"),
    "cloudFiles.includeExistingFiles": _Inert("true", "leave it out: files that are there are read"),
    "cloudFiles.allowOverwrites": _Inert("false", "leave it out: a rewritten file is reported, a rebuild reads it"),
    "cloudFiles.useNotifications": _Inert("false", "leave it out: the directory is listed"),
    "cloudFiles.useIncrementalListing": _Inert("*"),
    "cloudFiles.useManagedFileEvents": _Inert("false", "leave it out: the directory is listed"),
    "cloudFiles.maxBytesPerTrigger": _Inert(instead="bound a batch with cloudFiles.maxFilesPerTrigger"),
    "cloudFiles.maxFileAge": _Inert(instead="leave it out: files are never forgotten"),
    "cloudFiles.cleanSource": _Inert("OFF", "leave it out: a source is never written to"),
    "cloudFiles.backfillInterval": _Inert("*"),
    "cloudFiles.partitionColumns": _Inert(instead="leave it out: key=value directories become columns"),
    "cloudFiles.schemaHints": _Inert(instead="declare all columns in source_schema"),
    "cloudFiles.schemaEvolutionMode": _Inert("addNewColumns", "use lakehouse: {evolution: …}"),
    "cloudFiles.useStrictGlobber": _Inert("true"),
}


def _known(kind: str, discovered: bool) -> dict[str, tuple[str, _Honoured | _Inert]]:
    by_format = {"csv": {**_TEXT, **_CSV}, "json": {**_TEXT, **_JSON}, **_COLUMNAR}[kind]
    tables = {**_ANY, **by_format, **(_DISCOVERY if discovered else {})}
    return {name.lower(): (name, rule) for name, rule in tables.items()}


def _format(entity: Entity, given: Mapping[str, tuple[str, str]]) -> str:
    text = given.get("cloudfiles.format", ("", ""))[1]
    if text.lower() not in FORMATS:
        raise _fault(entity, "cloudFiles needs the option 'cloudFiles.format'", text or None, FORMATS)
    return text.lower()


def _unknown(
    entity: Entity, kind: str, name: str, discovered: bool, known: Mapping[str, tuple[str, _Honoured | _Inert]]
) -> SettingsError:
    where = f"cloudFiles with format {kind}" if discovered else kind
    honoured = sorted(option for option, rule in known.values() if isinstance(rule, _Honoured))
    return _fault(entity, f"{where} has no option of this name", name, honoured)


def _fault(entity: Entity, problem: str, value: object, choices: tuple[str, ...] | list[str] = ()) -> SettingsError:
    return SettingsError(
        f"entity {entity.entity_id!r} ({entity.destination}): {problem}",
        value=value,
        choices=choices,
        fix="correct read_options",
    )
