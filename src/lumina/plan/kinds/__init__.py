"""What each kind of model adds to the resolved shape, and the options it came from."""
