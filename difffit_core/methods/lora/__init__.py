"""LoRA (Hu et al., arXiv 2106.09685), through PEFT."""
