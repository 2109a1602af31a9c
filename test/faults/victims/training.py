# SPDX-License-Identifier: MIT
"""A small seeded training through a DataLoader: the digest of its weights depends on each batch."""
import hashlib

import torch
from torch.utils.data import DataLoader, Dataset


class Noise(Dataset):
    """Items of so many MiB that are a function of their index alone."""

    def __init__(self, mib):
        self.mib = mib

    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        x = torch.randn(self.mib, 512, 512, generator=generator)
        return x, x.mean() * 100 + index


def train(method, epochs, workers, mib):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(mib, 4, 5, stride=4), torch.nn.ReLU(),
                              torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(64, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    loader = DataLoader(Noise(mib), batch_size=4, num_workers=workers, shuffle=True,
                        multiprocessing_context=method)
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss = ((net(x).squeeze(1) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
    digest = hashlib.sha256()
    for parameter in net.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()
