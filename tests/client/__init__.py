"""Tests of the client and of the `difffit` command."""
