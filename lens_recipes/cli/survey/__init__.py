"""`lens-recipes survey`."""
