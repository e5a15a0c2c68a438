"""Names of layers, each only once in a model."""


def unique_name(name, taken):
    """Return a name that no other layer has.

    Args:
        name: String, what it is to be, or to begin with.
        taken: Set of the names of the others; the new one is added.

    Returns:
        A string.
    """
    while name in taken:
        name += "_"
    taken.add(name)
    return name
