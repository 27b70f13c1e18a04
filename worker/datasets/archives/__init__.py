"""Unpacking what users send, in a confined process."""
