"""stub"""


def load_lens(source, model=None, **k):
    raise ValueError("stub")
