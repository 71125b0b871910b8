"""2 KEEP: one module for each kind of table, and what they share.

A kind is plain functions over an engine, an entity and a plan: `draft` says what the next batch would read, `write`
makes it. `refresh.py` numbers, records and replays; Dagster and the command line only call that.
"""
