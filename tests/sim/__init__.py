"""The seeded simulator: the real Raft core and the real ledger under a simulated network, disks and clients."""
