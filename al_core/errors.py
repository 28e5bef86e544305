"""The one family of errors that people can do something about: each says what was found, what was expected, and the
way out.

The command prints any of them in one line (`al --debug` adds the traceback); the UI shows the same sentence. A
mistake in the code is none of them: it keeps its traceback. Errors that the platform raises where it is used as a
library are a `ValueError`, `OSError` or `KeyError` besides, so that who expects one of those needs to know no more.
"""

from __future__ import annotations


class ActiveLearningError(Exception):
    """Something that a person can mend; the message is a whole sentence for that person."""


class GiveUp(ActiveLearningError):
    """Trying again changes nothing until somebody did what the message says."""


class InvalidInput(ActiveLearningError, ValueError):
    """A value that cannot work; the message names it and what was expected."""


class NotThere(ActiveLearningError, KeyError):
    """What was asked for does not exist; the message names what there is."""

    def __str__(self) -> str:
        """The message as it is: a plain `KeyError` shows it in quotes."""
        return str(self.args[0]) if self.args else ""


class Unavailable(ActiveLearningError, OSError):
    """A store or a service cannot be used; the message says which, and what helps."""
