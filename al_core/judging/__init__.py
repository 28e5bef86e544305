"""Judging: how good a model is, whether it is better than another one, whether more labels are worth it."""
