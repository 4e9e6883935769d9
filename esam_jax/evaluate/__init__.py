"""Measurements that state their protocol."""
