"""A dataset directory: its manifest, its token shards, and the origin of each document."""
