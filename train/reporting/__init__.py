"""The report of a run: its tables, plots, pictures and clip."""
