"""One file for each family of checkpoints: its names, its table, how it is recognised."""
