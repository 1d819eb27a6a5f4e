"""How runs stand, told by their directories alone. Free of torch."""
