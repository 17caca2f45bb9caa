"""Guidelines: a dated corpus searched in Chroma, and rules that are computed."""
