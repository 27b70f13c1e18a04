"""The layouts of uploads: how each says which class, text and split its files have. `registry` chooses one."""
