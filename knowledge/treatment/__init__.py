"""What speaks for and against a treatment in one patient: which facts to look at, with the source of each."""
