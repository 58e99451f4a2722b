"""What a fit of a lens computes where the model runs."""
