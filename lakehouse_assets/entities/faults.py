"""What is wrong with a catalog: one record a fault, and the one error that carries all of them.

What belongs here: where a fault stands and how it reads. What does not: finding faults.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakehouse_assets.entities.checks import MisdeclaredError, Misfit
from lakehouse_assets.errors import CatalogError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    from lakehouse_assets.entities.yaml_lines import Document

_SHOWN = 200
_LISTED = 40
_PLAIN = {
    "missing": "the field is missing",
    "string_type": "must be text",
    "list_type": "must be a list",
    "dict_type": "must be a map",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "model_type": "must be a map of fields",
    "model_attributes_type": "must be a map of fields",
    "string_too_short": "is empty",
}


@dataclass(frozen=True)
class Fault:
    """One fault: where it stands, what is wrong, what would be legal.

    Attributes:
        file: the name of the YAML file.
        line: the line in it, from 1.
        entity: the id of the entity, where it is known.
        field: the path of fields: `("expectations", "expect_all", "temp_gt_50")`.
        problem: what is wrong.
        value: the offending value, if it helps.
        choices: the legal values, if they can be listed.
        fix: the next step.
    """

    file: str
    line: int
    entity: str | None
    field: tuple[str | int, ...]
    problem: str
    value: object = None
    choices: tuple[str, ...] = ()
    fix: str | None = None

    @property
    def nearest(self) -> str | None:
        """The legal value that is nearest to the given one, if one is near."""
        return did_you_mean(self.value, self.choices)[16:-3] or None if self.choices else None

    def __str__(self) -> str:
        parts = [f"{self.file}:{self.line}"]
        if self.entity is not None:
            parts.append(f"entity {self.entity!r}")
        if self.field:
            parts.append("field " + ".".join(str(part) for part in self.field))
        text = f"{', '.join(parts)}: {self.problem}"
        if self.value is not None:
            shown = repr(self.value)
            text += f" (got {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '…'})"
        if self.choices:
            more = len(self.choices) - _LISTED
            listed = ", ".join(self.choices[:_LISTED]) + (f", … ({more} more)" if more > 0 else "")
            text += f"; legal: {listed}{did_you_mean(self.value, self.choices)}"
        return text + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class Place:
    """Where a record stands: a file, its lines, and the position of the record in it."""

    file: str
    document: Document
    position: int

    def line(self, *where: str | int) -> int:
        """The line of a field of the record."""
        return self.document.line(("delta_live_store", self.position, *where))

    def fault(self, record: Any, misfit: Misfit) -> Fault:
        """The fault that a misfit of this record is."""
        name = record.get("entity_id") if isinstance(record, dict) else record.entity_id
        return Fault(
            self.file,
            self.line(*misfit.where),
            None if name is None else str(name),
            misfit.where,
            misfit.problem,
            misfit.value,
            misfit.choices,
            misfit.fix,
        )


def refuse(faults: Sequence[Fault]) -> CatalogError:
    """The error that carries all faults, by file and line."""
    once: dict[str, Fault] = {}
    for fault in faults:
        once.setdefault(str(fault), fault)  # by its text: the value of a fault may be a list
    ordered = tuple(sorted(once.values(), key=lambda fault: (fault.file, fault.line)))
    count = "1 fault" if len(ordered) == 1 else f"{len(ordered)} faults"
    listed = "\n".join(f"  {fault}" for fault in ordered)
    return CatalogError(f"the catalog has {count}:\n{listed}", fix="mend them and load again", faults=ordered)


def from_validation(error: ValidationError, fields: Iterable[str]) -> Iterator[Misfit]:
    """The faults that pydantic found in one record, in this project's words.

    Args:
        error: what pydantic raised.
        fields: the fields that a record may have.
    """
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, MisdeclaredError):
            yield from cause.misfits
            continue
        where = tuple(detail["loc"])
        kind = detail["type"]
        if kind == "extra_forbidden":
            known = tuple(fields) if len(where) == 1 else _fields_at(where[:-1])
            yield Misfit(where, "unknown field", where[-1], known, None if known else "remove it")
        elif kind == "literal_error":
            yield Misfit(where, "is not legal", detail["input"], _literals(detail["ctx"]["expected"]))
        elif kind == "missing":
            yield Misfit(where, _PLAIN[kind], fix="add it")
        else:
            yield Misfit(where, str(cause) if cause else _PLAIN.get(kind, detail["msg"]), _brief(detail["input"]))


def _brief(value: object) -> object:
    return value if isinstance(value, str | int | float | bool) or value is None else type(value).__name__


def _literals(expected: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("'") for part in expected.replace(" or ", ", ").split(","))


def _fields_at(path: tuple[str | int, ...]) -> tuple[str, ...]:
    """The fields of the block that stands at a path of the entity."""
    from lakehouse_assets.entities import model, options

    blocks: dict[str, type[BaseModel]] = {
        "expectations": model.Expectations,
        "apply_changes": model.ApplyChanges,
        "lakehouse": options.LakehouseOptions,
        "partitions": options.Partitions,
        "schedule": options.Schedule,
        "freshness": options.Freshness,
    }
    block = blocks.get(str(path[-1]))
    return tuple(block.model_fields) if block else ()
