"""The promptable model: prompt encoder, mask decoder, and both behind an image encoder."""
