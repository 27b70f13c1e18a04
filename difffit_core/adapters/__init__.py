"""Adapters: their file, whether they fit, merging, serving many at once, and exports."""
