"""Celery workers: they check datasets, supervise training, make images, and sweep up after lost workers."""
