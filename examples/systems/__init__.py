"""Every system of the paper in small, on two base models that are trained from nothing in minutes."""
