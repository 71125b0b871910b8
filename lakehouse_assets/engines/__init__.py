"""What computes: one contract (`base.py`), one module for each engine.

An engine reads and writes tables and runs Spark SQL over relations; it knows no table by name and no source.
Kinds of tables (`lakehouse_assets/tables`) are written against the contract only.
"""
