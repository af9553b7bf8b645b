"""The command line as tests call it, the YAML files that they hand it, and what it leaves in a run."""

import yaml

from pyro_vae.cli import main


def run(*arguments):
    """The exit status of a command."""
    return main([str(argument) for argument in arguments])


def write(folder, name, config):
    """A configuration as a file of a folder."""
    file = folder / name
    file.write_text(yaml.safe_dump(config))
    return file


def files(folder):
    """What a run's files hold, but for those of its priors."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "priors" not in p.parts}
