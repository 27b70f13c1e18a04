"""Diffusion processes: noising, targets and losses."""
