"""From what a fit added up to the transports of a lens."""
