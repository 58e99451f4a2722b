"""Lenses that others have published on the Hugging Face hub: which there are, and fetching one."""
