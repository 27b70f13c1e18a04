"""How the starter model `emoji-dit` and the demo's dataset were made."""
