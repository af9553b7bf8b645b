"""Training that ends at a step: as by SIGKILL, or by what else happens there."""

from pyro_vae.training.loop import Trainer


class Killed(BaseException):
    """As sudden as SIGKILL for the loop: nothing in the package catches it."""


def die_at(monkeypatch, step, action=None):
    """Let training die (or ``action`` happen) before a step, counted from 0."""
    one_step = Trainer._one_step

    def dying(self, epoch):
        if self.at.step == step:
            if action is None:
                raise Killed
            action()
        return one_step(self, epoch)

    monkeypatch.setattr(Trainer, "_one_step", dying)
