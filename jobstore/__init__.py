"""What the API and the workers share: settings, tables, the job lifecycle, the object store and the embedded servers."""
