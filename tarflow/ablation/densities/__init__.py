"""The study of densities: flows of vectors and of particles beside what is known of these."""
