"""The kinds of training: what each loads, what it makes of the dataset, its loss and its preview. The loop is `trainer`'s."""
