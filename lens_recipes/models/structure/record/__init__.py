"""Record one run of a model: its modules, the tensors between them and what made them."""
