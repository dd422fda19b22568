"""Floor 4: the commands that people type, one file a chapter of the runbook."""
