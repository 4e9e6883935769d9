"""Many processes as one run: joined, of one mind, watched."""
