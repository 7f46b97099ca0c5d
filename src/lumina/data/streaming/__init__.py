"""Text that is tokenised while a run trains, in memory that does not grow with it."""
