"""Ask the same of thousands of prompts, and keep what each of them said."""
