"""What runs beside a model: scoring over HTTP or in batch, and the collector that logs every prediction."""
