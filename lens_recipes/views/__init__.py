"""Show results: tables, figures, pages, frames, files. No model is needed."""
