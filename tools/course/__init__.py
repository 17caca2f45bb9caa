"""The same lesion from study to study: alignment, matching, change, response, pictures."""
