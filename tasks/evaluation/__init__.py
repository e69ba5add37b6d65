"""How configurations and baselines compare: tables, plots and pictures for people."""
