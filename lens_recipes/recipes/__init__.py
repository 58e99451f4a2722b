"""The recipes: short functions that open `model.trace` and read what a model predicts."""
