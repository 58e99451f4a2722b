"""Find the parts of a decoder by following its tensors; nothing here knows a model by name."""
