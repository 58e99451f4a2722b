"""`lens-recipes doctor`: what is installed, what this machine and a server can do."""
