"""Direct logit attribution."""
