"""What is particular to one architecture of base models."""
