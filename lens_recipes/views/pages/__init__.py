"""Results as web pages that need no network, and as HTML in a notebook."""
