"""Recipes as scripts to copy, for one model."""
