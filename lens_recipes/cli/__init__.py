"""The recipes from a shell."""
