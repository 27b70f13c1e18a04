"""Adapters and their exports."""
