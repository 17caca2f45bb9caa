"""Small language models of our own for a served planner: what people ask, transcripts of our agent, and the recipe that trains on them."""
