"""What is particular to models that take images."""
