"""Where an image comes from, and what is made of it: a file, an array, what is upright."""
