"""The study of densities: of points in the plane and of tables, by flows and older ways."""
