"""From a dataset to micro-batches: the token stream, its windows and their order."""
