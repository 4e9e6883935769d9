"""Linen modules, one part of the papers per file."""
