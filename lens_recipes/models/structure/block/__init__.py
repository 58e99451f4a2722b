"""Take one block apart: what it adds to the residual stream, and through which heads."""
