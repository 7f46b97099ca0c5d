"""Where data comes from: plain and compressed files, archives, data sets of a hub."""
