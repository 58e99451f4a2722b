"""Is a lens about the model, or about the text? It is pushed, and so is the model."""
