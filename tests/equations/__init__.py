"""Numerical checks of every labelled equation of the book, one module per page."""
