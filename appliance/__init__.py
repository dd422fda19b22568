"""Scribe Ledger appliance: a replicated, tamper-evident ledger with its whole operation built in."""

__version__ = "0.1.0"
