"""A dataset directory: its manifest, its token shards, and where each document came from."""
