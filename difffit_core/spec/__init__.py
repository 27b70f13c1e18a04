"""What a user asks for and what it resolves to. Torch-free."""
