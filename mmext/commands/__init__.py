"""Commands: a function and a parser each, called by the scripts of ``tools/``."""
