"""One training step in the order of its data: batch, generate, bridge, score, update; `program` compiles it for a mesh."""
