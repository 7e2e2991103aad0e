"""Merging: pure functions on weights."""
