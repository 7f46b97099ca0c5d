"""Where pages live between their uses: one file for each place."""
