"""Load a model, and find its blocks, norms, heads and unembedding."""
