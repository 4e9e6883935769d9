"""Named for segment-anything's folder of that name."""
