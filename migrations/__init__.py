"""The database's schema, step by step; `python -m jobstore.kit.migrate` brings a database to the newest step."""
