"""Heads on an image encoder that answers no prompts."""
