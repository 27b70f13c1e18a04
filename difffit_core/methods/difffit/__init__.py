"""DiffFit (Xie et al., arXiv 2304.06648): biases, norms, the class table and per-channel scale factors γ."""
