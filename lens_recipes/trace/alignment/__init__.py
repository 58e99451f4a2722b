"""What a lens announces of a push at the stream, beside what the model makes of it."""
