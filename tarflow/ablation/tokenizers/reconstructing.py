"""What a tokenizer keeps of images."""

from typing import Any

import torch
from torch import Tensor

from tarflow.ablation.data_sets import data_of, features_of, whole
from tarflow.evaluation.distances import frechet_distance
from tarflow.randomness import ExampleSeeds, normal
from tarflow.tokenizers import Autoencoder, count_codes, perplexity, share_in_use
from tarflow.training.tokenization.tokenizer_objective import signal_to_noise

AT_A_TIME = 256


@torch.no_grad()
def reconstruction(tokenizer: Autoencoder, name: str) -> dict[str, Any]:
    """What is measured of a tokenizer on a data set, and how its codes are used, if there are.

    Held-out images are compared with what is decoded of their latents; a decoder that removes
    noise gets latents with such noise. Codes are counted over all training images.
    """
    data = data_of(name)
    images = whole(data.test).x
    decoded = _decoded(tokenizer, images)
    one, other = (tokenizer.pixels.encode(each) for each in (images, decoded))
    features = features_of(name)
    rows = (features(each, tokenizer.pixels).numpy() for each in (decoded, images))
    found = {
        "psnr": float(signal_to_noise(other, one).mean()),
        "error": float((other - one).square().mean()),
        "frechet_distance": frechet_distance(*rows),
    }
    if tokenizer.num_codes is None:
        return {"reconstruction": found}
    counts = torch.zeros(tokenizer.num_codes, dtype=torch.int64)
    for part in whole(data.train).x.split(AT_A_TIME):
        squeezed = tokenizer.reconstruct(tokenizer.pixels.encode(part))
        assert squeezed.codes is not None
        counts += count_codes(squeezed.codes, tokenizer.num_codes)
    used = share_in_use(counts)
    codes = {"in_use": used, "unused": 1 - used, "perplexity": perplexity(counts)}
    return {"reconstruction": found, "codes": codes}


def _decoded(tokenizer: Autoencoder, images: Tensor) -> Tensor:
    """Images as they come back."""
    x = tokenizer.encode(images)
    noise = normal(x.shape, ExampleSeeds(0, range(len(x))), x.dtype, x.device, "noise")
    return tokenizer.decode(x + tokenizer.decodes_noise * noise)
