"""What lies in a run directory. Free of torch."""
