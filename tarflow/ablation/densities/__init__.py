"""The study of densities: in the plane, of tables and of particles, by flows and older ways."""
