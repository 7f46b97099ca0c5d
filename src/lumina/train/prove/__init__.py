"""`lumina prove`: a bundle that says how fast and how exact training is here."""
