"""The weights of a model: where they are, how they are kept, and whether there is room."""
