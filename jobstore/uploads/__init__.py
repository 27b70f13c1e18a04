"""Uploads in pieces."""
