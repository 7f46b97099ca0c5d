"""The methods of adapters, a file each, which is imported when it is looked up."""
