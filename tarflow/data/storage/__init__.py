"""How images lie on disk, and what `tarflow prepare` writes.

Files that are missing, damaged or of another layout, and arguments that are out of range, are a
`DataError` that names them and says what is expected.
"""
