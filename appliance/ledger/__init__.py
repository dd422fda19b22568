"""Floor 1, pure: entries, commands, the state machine and the Merkle tree."""
