"""The HTTP front end. It never imports torch: what needs it runs in the workers."""
