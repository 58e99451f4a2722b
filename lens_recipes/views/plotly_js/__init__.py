"""The part of plotly.js that our figures use, and how it travels in a page: packed."""
