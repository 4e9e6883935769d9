"""U-2-Net's layers as a plain module of torch, under the names of upstream's model/u2net.py."""

import torch
from torch import nn
from torch.nn import functional as F


class Layer(nn.Module):
    def __init__(self, given: int, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(given, width, 3, padding=dilation, dilation=dilation)
        self.bn_s1 = nn.BatchNorm2d(width)

    def forward(self, x):
        return F.relu(self.bn_s1(self.conv_s1(x)))


class Block(nn.Module):
    """An RSU of a height, or the dilated one of four layers where that is 0."""

    def __init__(self, given: int, inner: int, width: int, height: int) -> None:
        super().__init__()
        self.height, self.dilates = height or 4, not height
        self.rebnconvin = Layer(given, width)
        for level in range(1, self.height + 1):
            bottom = 2 if level == self.height else 1
            dilation = 2 ** (level - 1) if self.dilates else bottom
            layer = Layer(width if level == 1 else inner, inner, dilation)
            self.add_module(f"rebnconv{level}", layer)
        for level in range(1, self.height):
            dilation = 2 ** (level - 1) if self.dilates else 1
            layer = Layer(2 * inner, width if level == 1 else inner, dilation)
            self.add_module(f"rebnconv{level}d", layer)

    def forward(self, x):
        first = x = self.rebnconvin(x)
        seen = []
        for level in range(1, self.height + 1):
            if not self.dilates and 1 < level < self.height:
                x = pooled(x)
            x = getattr(self, f"rebnconv{level}")(x)
            seen.append(x)
        for level in range(self.height - 1, 0, -1):
            x = torch.cat((upsampled(x, seen[level - 1]), seen[level - 1]), 1)
            x = getattr(self, f"rebnconv{level}d")(x)
        return x + first


class U2Net(nn.Module):
    """Sigmoids of seven maps, [7, B, H, W]."""

    def __init__(self, config) -> None:
        super().__init__()
        heights, widths, given = (*config.heights, 0, 0), config.widths, 3
        for i in range(6):
            self.add_module(f"stage{i + 1}", Block(given, config.inner[i], widths[i], heights[i]))
            given = widths[i]
        for i in range(5, 0, -1):
            width = widths[max(i - 2, 0)]
            block = Block(given + widths[i - 1], config.inner[11 - i], width, heights[i - 1])
            self.add_module(f"stage{i}d", block)
            given = width
        for i in range(1, 7):
            width = widths[5] if i == 6 else widths[max(i - 2, 0)]
            self.add_module(f"side{i}", nn.Conv2d(width, 1, 3, padding=1))
        self.outconv = nn.Conv2d(6, 1, 1)

    def forward(self, x):
        seen, size = [], x
        for i in range(1, 7):
            x = getattr(self, f"stage{i}")(x if i == 1 else pooled(x))
            seen.append(x)
        maps = {6: x}
        for i in range(5, 0, -1):
            x = torch.cat((upsampled(x, seen[i - 1]), seen[i - 1]), 1)
            maps[i] = x = getattr(self, f"stage{i}d")(x)
        sides = [upsampled(getattr(self, f"side{i}")(maps[i]), size) for i in range(1, 7)]
        fused = self.outconv(torch.cat(sides, 1))
        return torch.sigmoid(torch.stack([fused, *sides]))[:, :, 0]


def pooled(x):
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def upsampled(x, other):
    return F.interpolate(x, size=other.shape[2:], mode="bilinear", align_corners=False)


def drawn(config, seed: int = 0) -> U2Net:
    """With random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    network = U2Net(config).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean") or name.endswith("bn_s1.bias"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var") or name.endswith("bn_s1.weight"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(1234)
    return network
