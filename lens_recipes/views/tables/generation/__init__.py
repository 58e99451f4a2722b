"""A generation as text: what was written, when each token was decided, where the time went."""
