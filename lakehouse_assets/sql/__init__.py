"""The one language of transforms: Spark SQL, parsed, checked, and turned into DuckDB SQL.

Reads text; hands out text and facts about it. Runs nothing and knows no table.
"""
