"""A run folder as files."""
