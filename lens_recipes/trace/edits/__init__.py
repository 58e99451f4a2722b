"""Change the stream while the model runs, where it runs, and prove that the change was made."""
