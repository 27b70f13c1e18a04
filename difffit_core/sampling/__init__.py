"""Pictures and texts from a base with an adapter."""
