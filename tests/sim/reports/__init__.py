"""Reports that are committed under docs/reports."""
