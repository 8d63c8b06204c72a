"""The package that quantizers come from: an extra, imported where it is needed."""

from types import ModuleType

from tarflow.errors import ConfigurationError


def quantizers() -> ModuleType:
    """The package `vector_quantize_pytorch`.

    Raises:
        ConfigurationError: It is not installed.
    """
    try:
        import vector_quantize_pytorch
    except ImportError as error:
        raise ConfigurationError(
            "this quantizer needs vector-quantize-pytorch, which is not installed: pip install"
            " 'tarflow[latents]'"
        ) from error
    return vector_quantize_pytorch
