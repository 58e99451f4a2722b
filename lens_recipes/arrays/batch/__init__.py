"""What many prompts come to together: the outcome of each, and parts of a logit over all."""
