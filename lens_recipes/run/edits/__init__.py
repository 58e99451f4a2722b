"""What edits need of a request: tokens, changes, other runs, and what proves them."""
