"""`lens-recipes logit-lens`."""
