"""Figures of what a model wrote, step by step."""
