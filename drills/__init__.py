"""Drills: the example app under load while its database, or the network, fails."""
