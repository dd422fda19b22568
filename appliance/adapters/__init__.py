"""Floor 2: the real world: SQLite, DuckDB, sockets, certificates, clocks, telemetry."""
