"""Attacks on classifiers: pixels, gradients and budgets that several plugins share."""
