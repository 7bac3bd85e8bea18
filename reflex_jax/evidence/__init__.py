"""What a run leaves behind so that every number it was paid by can be recomputed: written, hash-chained, read."""
