"""Tenants, their keys and what they may use."""
