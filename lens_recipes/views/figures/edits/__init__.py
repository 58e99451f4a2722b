"""Figures of what edits do."""
