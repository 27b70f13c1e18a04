"""Training one adapter on a frozen base."""
