"""From a dataset's files to encoded examples."""
