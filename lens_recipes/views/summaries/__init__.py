"""A result in a few lines, for an assistant that reads on."""
