"""Pictures and masks as NumPy, until the loader makes one global, sharded batch."""
