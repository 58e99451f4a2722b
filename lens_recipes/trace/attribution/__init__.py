"""Split a logit into what each part of the model adds to it, where the model is."""
