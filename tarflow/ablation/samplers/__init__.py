"""The study of samplers: exact ones, and students of a flow."""
