"""Python client and `difffit` command of the service. Needs neither torch nor a database."""

from client.api import Client
from client.errors import ApiError, ConfigError, UnreachableError

__all__ = ["ApiError", "Client", "ConfigError", "UnreachableError"]
