"""How runs stand, read from their directories."""
