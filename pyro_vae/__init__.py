"""Variational autoencoders as pairs of Pyro programs."""
