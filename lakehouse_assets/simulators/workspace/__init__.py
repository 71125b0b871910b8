"""A Databricks workspace on this machine that executes what it is sent; README.md says what it cannot prove."""
