"""A first flow: learn a bivariate normal distribution (FlowTorch's introduction, with only its imports changed)."""

import torch

import flowmodel.bijectors as bij
import flowmodel.distributions as dist

torch.manual_seed(1)

base_dist = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
target_dist = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2) + 5, torch.ones(2) * 0.5), 1)

# Lazily instantiated flow
bijectors = bij.AffineAutoregressive()

# Instantiate transformed distribution and parameters
flow = dist.Flow(base_dist, bijectors)

# Training loop
opt = torch.optim.Adam(flow.parameters(), lr=5e-3)
for idx in range(3001):
    opt.zero_grad()

    # Minimize KL(p || q)
    y = target_dist.sample((1000,))
    loss = -flow.log_prob(y).mean()

    if idx % 500 == 0:
        print("epoch", idx, "loss", loss.item())

    loss.backward()
    opt.step()

# The entropy of the target is 1 + log(pi / 2) = 1.4516 nats. On the same points the noise of the estimate cancels.
y = target_dist.sample((100_000,))
with torch.no_grad():
    gap = (target_dist.log_prob(y) - flow.log_prob(y)).mean().item()
print(f"mean of log p(y) - log q(y): {gap:.4f} nats")
