"""Tables as GitHub's Markdown."""
