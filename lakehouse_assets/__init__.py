"""One Dagster asset graph that carries tables from kdb+, Kafka, SQLite, Kinesis and files to an exact Delta lake."""
