"""3 ASK: what readers of the lake call. Reads tables through an engine, writes nothing, knows no source."""
