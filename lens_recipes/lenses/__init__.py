"""Lenses: fitted or loaded transports, and the files that hold them."""
