"""GPT-2: its shapes, its construction, its loss and its cost."""
