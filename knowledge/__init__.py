"""What is known, and from where: studies, records, guidelines, and the evidence that points into them."""
