"""Honest stand-ins for systems that a laptop lacks: only the command line, tests and local set-up import them."""
