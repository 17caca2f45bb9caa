"""Lets people and systems in: HTTP API, command line, chat page."""
