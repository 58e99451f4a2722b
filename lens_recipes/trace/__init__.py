"""What runs inside `model.trace`, here or on a server: it imports torch and nnsight only."""
