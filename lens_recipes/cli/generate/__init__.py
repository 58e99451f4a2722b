"""`lens-recipes generate`."""
