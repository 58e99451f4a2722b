"""The jobs of a run: their states, their file, and waiting for them."""
