"""Tests; the folders mirror the code's. Imported before any of them, and so before torch."""

import os

# The networks here are tiny and several processes compute at once: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
