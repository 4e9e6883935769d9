"""One file for each format of weight files; none of them runs code from a file."""
