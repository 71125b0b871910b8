"""Where a step runs: here, or on Databricks. What belongs here: launching. What does not: what a step does."""
