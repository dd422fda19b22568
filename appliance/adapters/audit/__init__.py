"""SQL over the audit trail: the engine on the node's side, and the worker process that runs one query.

`engine` is all that the node imports; DuckDB and Arrow live in the worker alone.
"""
