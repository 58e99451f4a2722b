"""The map of many prompts: prompts × layers."""
