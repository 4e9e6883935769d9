"""Inference: load a model, encode pictures, ask for masks, draw them."""
