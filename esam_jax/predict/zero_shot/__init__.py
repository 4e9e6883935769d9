"""Zero-shot transfer: what a promptable model answers beyond a person's prompts."""
