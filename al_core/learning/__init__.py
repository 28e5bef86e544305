"""Learning: from labeled images to a checkpoint, and from a checkpoint to answers."""
