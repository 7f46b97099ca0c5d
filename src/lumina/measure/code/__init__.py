"""Generated code: is it a program, does it pass its tests, is it careless."""
