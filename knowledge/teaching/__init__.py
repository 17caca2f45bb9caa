"""Teaching: items with pictures and key points, and what a learner has answered."""
