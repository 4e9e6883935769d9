"""Data sets as they are, without a model: what is in them, sheets of them, parts and packs."""
