"""Put the moving source on the grid of the fixed one, and judge what came of it."""
