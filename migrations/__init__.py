"""The database's schema, step by step; `python -m jobstore.migrate` brings a database to the newest step."""
