"""The figures of a survey."""
