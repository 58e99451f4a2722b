"""Recipes that fit lenses, and measure what they are worth."""
