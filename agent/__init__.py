"""Answers a question with evidence: plans over tools, composes, checks each sentence, says what is missing."""
