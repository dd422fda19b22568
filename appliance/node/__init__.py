"""Floor 2: the driver that carries out what the Raft core asks for; it knows only its own Protocols."""
