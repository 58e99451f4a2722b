"""Figures of what a model wrote, token by token."""
