"""Tables of the parts of a logit: of one prompt, and over many prompts."""
