"""The computer: devices and their rates, processes, files that are written whole or not at all."""
