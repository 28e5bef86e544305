"""What sets the loop in motion: the selection schedule, the labeling export sensor, the run failure sensor."""
