"""Readers of the corpus formats; each turns bytes or rows into documents."""
