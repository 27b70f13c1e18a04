"""The base models on offer."""
