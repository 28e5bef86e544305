"""Active learning on known labels: the same selection, training and evaluation, an oracle in place of people."""
