"""Floor 1, pure: who may come in, and how often; time comes in as an argument."""
