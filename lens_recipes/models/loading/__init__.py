"""Reading a checkpoint with transformers: its code, its kind, its size, its tokenizer."""
