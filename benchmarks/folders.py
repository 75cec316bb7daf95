"""Folders of checkpoints, by the names that tables give to what lies there."""


def folder_of(name: str) -> str:
    """Return the folder of a defense or a run.

    >>> folder_of("query-side, rate 0.05")
    'query-side-rate-0.05'
    >>> folder_of("query-side, radius 8/255")
    'query-side-radius-8-255'
    """
    return name.replace(", ", "-").replace(" ", "-").replace("/", "-")
