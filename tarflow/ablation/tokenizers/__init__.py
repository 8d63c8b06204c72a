"""The study of tokenizers: what they keep of images, and flows of their latents."""
