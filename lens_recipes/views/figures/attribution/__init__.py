"""Figures of an attribution: which parts of a model wrote a logit."""
