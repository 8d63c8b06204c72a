"""Data that a flow keeps likely: paths between two, and wholes of a part."""
