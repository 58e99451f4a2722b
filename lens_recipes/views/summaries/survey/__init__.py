"""What a survey came to, in sentences."""
