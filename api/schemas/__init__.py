"""What the API takes and answers beside the specs of `difffit_core`: a module a noun, and how a row becomes what it shows."""
