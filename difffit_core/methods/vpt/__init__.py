"""Visual prompt tuning, deep (Jia et al., arXiv 2203.12119): trained tokens beside a block's own."""
