"""Who may come in: keys."""
