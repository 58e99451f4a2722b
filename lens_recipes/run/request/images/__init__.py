"""Images among the prompts: opened, processed, and found again among the tokens."""
