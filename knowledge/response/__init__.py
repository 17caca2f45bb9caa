"""Response over time: lesions with lasting names, and worksheets that count targets by the rules of the criteria."""
