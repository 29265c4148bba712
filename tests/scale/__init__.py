"""More nodes, workers and Datasets than any machine here has: played, each by the part of the product that decides."""
