"""The status of runs, read from their directories."""
