"""The tokens of a model: their texts, and what a text is as tokens."""
