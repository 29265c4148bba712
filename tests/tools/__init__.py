"""What needs root or a program of others: the suite's own runner, and the chart, which helm renders."""
