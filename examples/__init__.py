"""Runnable examples: the demo, and how the starter model was made."""
