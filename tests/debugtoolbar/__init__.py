"""The panel of pyramid_debugtoolbar."""
