"""Text to fit a lens on, or to measure it on, as rows of token ids."""
