"""Results as tables: on a terminal, as Markdown, as tab-separated values."""
