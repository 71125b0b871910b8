"""Proof that kills change nothing: a catalog is run on a scratch lake, killed at chosen moments, and run again.

Reads a catalog and its sources, writes scratch lakes only, and reports to `cli/prove.py`. What does not belong here:
how a table is written, which is what is proved.
"""
