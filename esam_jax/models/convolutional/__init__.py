"""Convolutional networks that tell classes apart."""
