"""One folder per paper. Plugins never import each other."""
