"""Sample data computed from formulas: a head with known geometry, and the medical files that hold it."""
