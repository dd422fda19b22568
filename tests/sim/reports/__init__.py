"""Reports that are committed under docs/reports, and what docs/SIMULATOR.md says of them."""
