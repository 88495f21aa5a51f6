"""Backbones that the configs of several plugins share and MMPretrain lacks."""
