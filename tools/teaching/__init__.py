"""Teaching sessions on a case and on the items in the box."""
