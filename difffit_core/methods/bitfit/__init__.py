"""BitFit (Ben Zaken et al., arXiv 2106.10199): biases only."""
