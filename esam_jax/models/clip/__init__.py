"""CLIP: the image encoder and the text encoder."""
