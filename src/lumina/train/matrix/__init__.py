"""`lumina matrix`: features together in short trainings, compared with a reference."""
