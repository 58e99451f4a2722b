"""Reduce the logits of every site to small arrays where the model is, in bounded memory."""
