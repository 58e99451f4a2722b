"""A recipe's arguments, checked once: prompts, positions, targets and sites."""
