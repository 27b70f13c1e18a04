"""Adapters: a bottleneck beside an MLP (Chen et al., arXiv 2205.13535) or behind it (Houlsby et al., arXiv 1902.00751)."""
