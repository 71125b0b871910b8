"""When tables are refreshed: conditions, jobs, schedules, sensors, and who is told when a run fails.

Reads the graph of `assets`. What a refresh does is decided in `tables`.
"""
