"""Training of tokenizers: what they minimize, and how their codes are used."""
