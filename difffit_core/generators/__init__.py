"""Make pictures or texts with a base, and with one adapter after the other on it."""
