"""Readers of one corpus format each: from bytes, rows or a hub to documents."""
