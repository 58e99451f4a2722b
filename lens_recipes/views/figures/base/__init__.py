"""What all figures share: style, colours, axes, the grid of sites and tokens."""
