"""What a round does: scoring, selecting, labeling, training, deploying. Dagster's assets, the `al` command and the
simulation call it; it knows none of them.
"""
