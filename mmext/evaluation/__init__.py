"""Measures shared by plugins."""
