"""What active learning is, free of any platform: records, strategies, selection, training, evaluation.

Nothing in here knows Dagster, Azure or HTTP; what it needs from outside comes in through small protocols.
"""
