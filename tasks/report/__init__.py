"""The page about one run: its figures, its outliers with pictures, and what moved against the run before."""
