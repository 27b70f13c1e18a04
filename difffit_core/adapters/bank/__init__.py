"""Many adapters on one frozen base."""
