"""Reports: drafting one from evidence, and checking one against everything that the case holds."""
