"""Networks that exist for pretraining alone."""
