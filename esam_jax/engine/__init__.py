"""SAM's data engine (arXiv:2304.02643, section 4): annotations by a model and a person in turn."""
