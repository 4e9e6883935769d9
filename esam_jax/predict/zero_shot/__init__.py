"""Zero-shot transfer: what a promptable model does beyond the prompts of a person."""
