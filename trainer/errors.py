"""What goes wrong through no fault of the program, said to the person who can mend it."""


class UserError(Exception):
    """Bad input or circumstances: one sentence with what happened, where, and what to do now.

    The command line prints the sentence without a traceback and leaves with exit code 2; a run that
    meets one ends as *failed* with the sentence as its message. Nothing has been written over.
    """


def nearest(word: str, names) -> str:
    """A half sentence naming the closest valid names, for errors about unknown ones.

    >>> nearest("rnak", ["rank", "alpha"])
    "did you mean 'rank'?"
    """
    from difflib import get_close_matches

    names = sorted(names)
    close = get_close_matches(word, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    return f"valid names: {', '.join(names)}"
