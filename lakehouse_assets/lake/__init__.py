"""The lake: where tables stand, how they are numbered, and the one module that speaks to delta-rs.

Reads and writes Delta tables; knows nothing of sources, SQL or what a row means. Engines compute on top of it.
"""
