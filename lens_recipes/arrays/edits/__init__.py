"""Edits: changes made to the stream while a model runs, as values that are printed and saved."""
