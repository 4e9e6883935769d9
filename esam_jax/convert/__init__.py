"""To and from the public PyTorch checkpoints, and the files of this package."""
