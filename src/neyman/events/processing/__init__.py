"""Processors in coffea: events of a chunk in; tables, histograms and files out."""
