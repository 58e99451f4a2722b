"""Read the lens while the model writes, here or on a server."""
