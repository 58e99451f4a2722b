"""Figures whose horizontal axis is the layers of a model."""
