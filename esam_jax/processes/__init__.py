"""Many processes as one: they join, compare what they are about to do, and stop together."""
