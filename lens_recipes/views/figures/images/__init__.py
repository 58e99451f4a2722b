"""Figures of an image, with what a lens says at each of its patches."""
