"""The report where the truth is known: random systems, with errors planted."""
