"""What runs inside `model.trace`, here or on a server: what travels needs torch alone."""
