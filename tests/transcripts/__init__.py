"""Scenarios of the Raft core as transcripts that a person can review."""
