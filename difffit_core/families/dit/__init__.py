"""Diffusion transformers with classes, as diffusers stores them."""
