"""Reports in the making: templates, and drafts that wait for a person to sign them."""
