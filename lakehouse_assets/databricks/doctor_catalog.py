"""What `lakehouse doctor --target databricks` looks at in Unity Catalog: who may make tables, and where.

What belongs here: grants on catalogs and schemas, and names in SQL. What does not: volumes (`doctor.py`); registering
tables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from lakehouse_assets.databricks.findings import Caller, Finding, ask, not_checked
from lakehouse_assets.sql.expand import quoted

TABLES = ("USE_SCHEMA", "CREATE_TABLE", "SELECT", "MODIFY")
"""What a step needs in a schema that is there."""
TO_COME = "is made by the first step"


def check_unity_catalog(caller: Caller, name: str, schemas: Collection[str]) -> Iterator[Finding]:
    """Whether tables can be made in these schemas of a catalog; a schema that is not there has to be made first."""
    found = [check_schema(caller, name, schema) for schema in schemas]
    wanted = ["USE_CATALOG", *(["CREATE_SCHEMA"] if any(one.found == TO_COME for one in found) else [])]
    create = f"CREATE CATALOG {identifier(name)}, or mend `unity_catalog` in the configuration"
    first = _granted(caller, "CATALOG", (name,), wanted, {"NotFound": create})
    yield first
    if first.state == "ok":
        yield from found
    else:
        yield from (not_checked(one.check, f"see {first.check}") for one in found)


def check_schema(caller: Caller, catalog: str, schema: str) -> Finding:
    """Whether tables can be made and changed in a schema, if it is there."""
    return _granted(caller, "SCHEMA", (catalog, schema), TABLES, {}, TO_COME)


def _granted(
    caller: Caller,
    kind: str,
    name: tuple[str, ...],
    wanted: Collection[str],
    fixes: Mapping[str, str],
    to_come: str | None = None,
) -> Finding:
    """Whether the caller may do something: by a grant to them or a group of theirs, or as owner.

    Args:
        kind: "CATALOG" or "SCHEMA".
        to_come: what is said, as no fault, of one that is not there.
    """
    full = ".".join(name)
    check = f"{kind.lower()} {full}"

    def grant(privileges: Collection[str]) -> str:
        listed = ", ".join(privileges).replace("_", " ")
        return f"GRANT {listed} ON {kind} {identifier(*name)} TO {quoted(caller.name)}"

    def look() -> Finding:
        from databricks.sdk.errors import NotFound

        try:
            may = _privileges(caller, kind, full)
        except NotFound:
            if to_come is None:
                raise
            return Finding(check, "ok", to_come)
        lacking = [] if "ALL_PRIVILEGES" in may else [one for one in wanted if one not in may]
        if lacking and not _owned(caller, kind, full):
            told = f"{caller.name} has no {', '.join(lacking).replace('_', ' ')}, and no group of theirs has"
            return Finding(check, "missing", told, grant(lacking))
        return Finding(check, "ok", f"{caller.name} has {', '.join(wanted).replace('_', ' ')}")

    return ask(check, f"read the grants on the {check}", look, {"PermissionDenied": grant(wanted), **fixes})


def _privileges(caller: Caller, kind: str, name: str) -> set[str]:
    entries = caller.client.grants.get_effective(kind, name).privilege_assignments or ()
    mine = [privilege for entry in entries if entry.principal in caller.names for privilege in entry.privileges or ()]
    return {one.privilege.value for one in mine if one.privilege}


def _owned(caller: Caller, kind: str, name: str) -> bool:
    """Whether the caller, or a group of theirs, owns it; whoever may not look does not."""
    from databricks.sdk.errors import NotFound, PermissionDenied

    try:
        if kind == "CATALOG":
            return caller.client.catalogs.get(name).owner in caller.names
        return caller.client.schemas.get(name).owner in caller.names
    except (NotFound, PermissionDenied):
        return False


def identifier(*parts: str) -> str:
    """A name of Unity Catalog in SQL."""
    return ".".join(part if re.fullmatch(r"[A-Za-z_]\w*", part) else quoted(part) for part in parts)
