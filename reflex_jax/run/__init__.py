"""A run on disk: its folder, its checkpoints, what it writes, what it may not change."""
