"""Where in its image each image token is."""
