"""A deep Markov model as in Pyro's tutorial, with lengths, masks and a packed recurrent guide; transition and emission
are linear here, so that a Kalman filter knows log p(x). The latents have a bound, and none beyond a sequence's end."""

import pyro
import pyro.distributions as dist
import torch
from torch import nn

import pyro_vae

EPOCHS, LEARNING_RATE, T = 40, 1e-2, 8


def reverse(x, lengths):  # (N, T, dim), each up to its length
    return x.take_along_dim(((lengths[:, None] - 1 - torch.arange(T)) % T)[..., None], 1)


def data(num_data=1000, seed=0):  # a random walk in a plane, seen in three noisy numbers, for 4 to 8 steps
    g = torch.Generator().manual_seed(seed)
    x = 0.5 * torch.randn(num_data, T, 2, generator=g).cumsum(1) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, 1.0]])
    lengths = torch.randint(4, T + 1, (num_data,), generator=g)
    mask = torch.arange(T) < lengths[:, None]
    x = (x + 0.3 * torch.randn(num_data, T, 3, generator=g)) * mask[..., None]
    return {"x": x, "reversed": reverse(x, lengths), "mask": mask, "lengths": lengths}


class DMM(nn.Module):
    def __init__(self):
        super().__init__()
        self.trans, self.emitter, self.combine = nn.Linear(2, 2), nn.Linear(2, 3), nn.Linear(2, 16)
        self.rnn, self.q = nn.RNN(3, 16, batch_first=True), nn.Linear(16, 4)
        self.z_0, self.z_q_0, self.log_scale = (nn.Parameter(torch.zeros(2)) for _ in range(3))

    def model(self, mini_batch, reversed, mask, lengths):
        z, (z_scale, x_scale) = self.z_0.expand(len(mini_batch), 2), self.log_scale.exp()
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t, there in enumerate(mask.T[..., None]):
                z = pyro.sample(f"z_{t}", dist.Normal(self.trans(z), z_scale).mask(there).to_event(1))
                x = dist.Normal(self.emitter(z), x_scale).mask(there).to_event(1)
                pyro.sample(f"obs_x_{t}", x, obs=mini_batch[:, t])

    def guide(self, mini_batch, reversed, mask, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(reversed, lengths, batch_first=True, enforce_sorted=False)
        h = reverse(nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=T)[0], lengths)
        z = self.z_q_0.expand(len(mini_batch), 2)
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t, there in enumerate(mask.T[..., None]):
                loc, log_scale = self.q((self.combine(z).tanh() + h[:, t]) / 2).chunk(2, -1)
                z = pyro.sample(f"z_{t}", dist.Normal(loc, log_scale.exp()).mask(there).to_event(1))


def pair():
    return (dmm := DMM()).model, dmm.guide


if __name__ == "__main__":
    model, guide = pair()
    result = pyro_vae.fit(model, guide, data(), epochs=EPOCHS, learning_rate=LEARNING_RATE)
    print(pyro_vae.log_likelihood(result.model, result.guide, data(seed=1), num_particles=100))
