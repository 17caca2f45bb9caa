"""What it may be: observations of a case, measured signs, and the ranked differential diagnosis."""
