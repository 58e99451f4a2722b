"""What runs inside `model.trace`, here or on a server: torch and nnsight only, nothing else of this package."""
