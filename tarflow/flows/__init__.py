"""The method: what maps data to noise and back, and the named flows made of it."""
