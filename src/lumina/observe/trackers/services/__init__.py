"""Lumina's own trackers: one file each, named like its tracker."""
