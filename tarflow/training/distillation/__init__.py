"""What students of a flow are trained by."""
