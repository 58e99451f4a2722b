"""What a survey found, in plain numpy with named axes, and the statistics of it."""
