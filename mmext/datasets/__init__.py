"""Offline benchmarks made of real data that ships inside dependencies, shared by the plugins."""
