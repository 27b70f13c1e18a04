"""Estimates for plans."""
