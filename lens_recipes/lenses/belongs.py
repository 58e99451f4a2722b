"""stub"""


def check_belongs(lens, model): ...
