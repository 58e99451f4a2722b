"""How the transports of each kind of lens are estimated."""
