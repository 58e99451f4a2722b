"""What is said of edits: effects, doses and confirmations, each beside its controls."""
