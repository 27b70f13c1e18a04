"""DiffFit as a plain library: methods, models, data, training, sampling and evaluation. Knows no web, queue or database."""
