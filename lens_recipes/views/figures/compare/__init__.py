"""Two results side by side, and their difference."""
