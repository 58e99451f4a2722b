"""What edits do: over their scale, and to the parts that an attribution names."""
