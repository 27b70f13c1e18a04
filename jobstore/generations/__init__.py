"""Pictures and texts on request."""
