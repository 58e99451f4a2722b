"""The lens while a model writes."""
