"""Tests of `jobstore`."""
