"""The one table of many prompts, a row for each."""
