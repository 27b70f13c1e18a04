"""What serves all of them."""
