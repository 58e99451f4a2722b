"""What the sites of a lens result predict, as grids of text."""
