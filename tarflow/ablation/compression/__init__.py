"""The study of compression: flows made smaller in several ways, by what that costs and saves."""
