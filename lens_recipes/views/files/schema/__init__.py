"""What a file of a result can hold: fields, numbers, and how they belong together."""
