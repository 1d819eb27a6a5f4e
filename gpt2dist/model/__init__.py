"""GPT-2: shapes, construction, loss and FLOPs."""
