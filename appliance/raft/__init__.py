"""Floor 1, pure: the consensus core, without clock, socket, file or chance of its own."""
