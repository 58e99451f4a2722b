"""The ground that all figures stand on: style, colours, the map of sites and tokens."""
