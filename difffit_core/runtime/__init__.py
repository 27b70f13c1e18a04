"""Devices, kernels, number formats and processes."""
