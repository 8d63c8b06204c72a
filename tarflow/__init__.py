"""Transformer autoregressive flows: exact likelihoods and samples from one model."""

from tarflow.flow import TarFlow, Flow
