"""The command `lakehouse`: one module for each group of commands, over the same rooms that Dagster runs.

Data goes to stdout, progress and messages go to stderr; exit codes: 0 done, 1 failed, 2 wrong use.
"""
