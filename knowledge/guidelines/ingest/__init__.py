"""From a hospital's files to passages: read (PDF, HTML, Markdown, DOCX), keep the pages, cut along the structure."""
