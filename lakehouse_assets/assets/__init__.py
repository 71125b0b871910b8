"""The asset graph: one multi-asset for each destination of the catalog, with its checks and its metadata.

Reads a catalog and calls `tables` in each step. Dagster is known here, Delta and SQL engines are not. When something
runs is decided in `automation`.
"""
