"""`lens-recipes fit` and `lens-recipes merge`."""
