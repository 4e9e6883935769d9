"""Every mask of a picture."""
