"""What tables exist: the entities that declare them, and the catalog that holds them together.

Reads YAML files; hands a checked catalog to `lake`, `tables` and `assets`. Knows no engine and no Dagster.
"""
