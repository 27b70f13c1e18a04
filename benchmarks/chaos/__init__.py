"""Does the service lose anything? The real stack at work while its processes are killed and stopped."""
