"""Zero-shot transfer: what a promptable model is used for without a person's prompts."""
