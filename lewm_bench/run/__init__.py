"""Suites to results."""
