"""Turn the edits that a caller asks for into steps of a trace, and into what each batch needs."""
