"""The files of lenses: our own, and those of other tools. None of them runs code."""
