"""The one family of errors that people can do something about: each says what was found, what was expected, and the
way out.

The command prints any of them in one line (`--debug` adds the traceback); the UI shows the same sentence.
"""

from __future__ import annotations


class ActiveLearningError(Exception):
    """Something that a person can mend; the message is a whole sentence for that person."""


class GiveUp(ActiveLearningError):
    """Trying again changes nothing until somebody did what the message says."""
