"""What a multimodal model needs beside its tokenizer."""
