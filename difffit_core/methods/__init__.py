"""The fine-tuning methods, a folder each: `config` (torch-free), `layer` (modules it adds), `model` (what it does to one)."""
