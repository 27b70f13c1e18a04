"""What a training will need, and what it trains."""
