"""Networks of the in-box bundles that MONAI doesn't have as they are: thin frames around MONAI's own."""

import torch
from monai.networks.blocks import Convolution
from monai.networks.nets import ResNet, SegResNet, UNet
from torch import Tensor, nn
from torch.nn import functional


class FoldedSegResNet(nn.Module):
    """MONAI's SegResNet on voxels folded 2 x 2 x 2 into channels: eight times fewer positions at nearly the same sharpness.

    Input [B, in_channels, X, Y, Z], output [B, out_channels, X, Y, Z] (logits). Sizes that don't fit are padded with zeros at the
    far ends and cut again. It has no normalisation of its output channels, so an empty mask can be said.
    """

    def __init__(
        self, in_channels: int, out_channels: int, init_filters: int, blocks_down: list[int], blocks_up: list[int]
    ) -> None:
        super().__init__()
        self.inner = SegResNet(3, init_filters, 8 * in_channels, 8 * out_channels, blocks_down=blocks_down, blocks_up=blocks_up)
        self.multiple = 2 ** len(blocks_down)

    def forward(self, image: Tensor) -> Tensor:
        size = image.shape[2:]
        pad = [p for n in reversed(size) for p in (0, -n % self.multiple)]
        return _unfolded(self.inner(_folded(functional.pad(image, pad))))[..., : size[0], : size[1], : size[2]]


def _folded(image: Tensor) -> Tensor:
    """[B, C, X, Y, Z] to [B, 8C, X/2, Y/2, Z/2]."""
    b, c, x, y, z = image.shape
    cells = image.reshape(b, c, x // 2, 2, y // 2, 2, z // 2, 2)
    return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(b, 8 * c, x // 2, y // 2, z // 2)


def _unfolded(cells: Tensor) -> Tensor:
    """[B, 8C, X, Y, Z] to [B, C, 2X, 2Y, 2Z]."""
    b, c, x, y, z = cells.shape
    split = cells.reshape(b, c // 8, 2, 2, 2, x, y, z).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return split.reshape(b, c // 8, 2 * x, 2 * y, 2 * z)


def averaged(weights: dict[str, Tensor], network: nn.Module, keep: float) -> None:
    """Move the running average `weights` of a network's state towards its present state (for training recipes)."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                weights[name].mul_(keep).add_(value, alpha=1 - keep)
            else:
                weights[name].copy_(value)


class BoxAndType(nn.Module):
    """One box and one type for a 2D slice: MONAI's ResNet, its stages joined from coarse to fine, and four heads.

    Input [B, 1, H, W] with sides that are multiples of 32. Output [B, TYPES + classes, H / 4, W / 4]: channel 0 the logit that a
    lesion's middle is here; 1 to 4 the distances to the box's left, top, right and bottom edge in input pixels; 5 the logit that
    this place is inside the lesion; then the type's logits, the same at each place. The type is read from the whole slice and from
    what is seen as lesion.
    """

    STRIDE = 4
    TYPES = 6
    """The first channel of the type's logits."""

    def __init__(self, classes: int, planes: list[int], layers: list[int], width: int = 64, fine: int = 32) -> None:
        super().__init__()
        self.body = ResNet("basic", layers, planes, spatial_dims=2, n_input_channels=1, conv1_t_size=5, conv1_t_stride=2)
        del self.body.fc, self.body.avgpool
        self.sides = nn.ModuleList([nn.Conv2d(planes[0], fine, 1), *(nn.Conv2d(p, width, 1) for p in planes[1:])])
        self.mix = nn.ModuleList([_mixing(fine), _mixing(width), _mixing(width)])
        self.narrow = nn.Conv2d(width, fine, 1)
        self.last = _mixing(fine)
        self.heat = nn.Conv2d(fine, 1, 1)
        self.edges = nn.Conv2d(fine, 4, 1)
        self.filled = nn.Conv2d(fine, 1, 1)
        self.drop = nn.Dropout(0.3)
        self.kind = nn.Linear(planes[-1] + width, classes)
        nn.init.constant_(self.heat.bias, -4.0)
        nn.init.constant_(self.filled.bias, -3.0)
        nn.init.constant_(self.edges.bias, 4.0)

    def forward(self, image: Tensor) -> Tensor:
        b = self.body
        stages = [b.layer1(b.maxpool(b.act(b.bn1(b.conv1(image)))))]
        for layer in (b.layer2, b.layer3, b.layer4):
            stages.append(layer(stages[-1]))
        joined = self.sides[3](stages[3])
        for finer in (2, 1):
            joined = self.mix[finer](self.sides[finer](stages[finer]) + _wider(joined, stages[finer]))
        sharp = self.last(self.mix[0](self.sides[0](stages[0]) + _wider(self.narrow(joined), stages[0])))
        heat, filled = self.heat(sharp).float(), self.filled(sharp).float()
        edges = functional.softplus(self.edges(sharp).float()) * self.STRIDE
        look = functional.avg_pool2d(torch.sigmoid(filled.detach()), 2).flatten(2)
        seen = (joined.float().flatten(2) * look).sum(2) / look.sum(2).clamp_min(1)
        logits = self.kind(self.drop(torch.cat([stages[3].float().mean((2, 3)), seen], 1))).float()
        return torch.cat([heat, edges, filled, logits[:, :, None, None].expand(-1, -1, *heat.shape[2:])], 1)


def _wider(maps: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(maps, size=like.shape[2:], mode="nearest")


def _mixing(width: int) -> nn.Module:
    block: nn.Module = Convolution(2, width, width, kernel_size=3, norm=("BATCH", {}), act="RELU", adn_ordering="NA")
    return block


NEAR_PEAK = 16.0
"""Boxes of places this far (in input pixels) from the surest one are averaged with its own."""


def best_boxes(output: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [B, 4] (x0, y0, x1, y1 in input pixels) and scores [B] of what BoxAndType gives: the mean of the boxes around the peak."""
    heat, edges = output[:, 0].float(), output[:, 1:5].float()
    rows, columns = torch.meshgrid(*[(torch.arange(n) + 0.5) * BoxAndType.STRIDE for n in heat.shape[1:]], indexing="ij")
    left, top, right, bottom = edges.unbind(1)
    boxes = torch.stack([columns - left, rows - top, columns + right, rows + bottom], 1).flatten(2)
    scores = torch.sigmoid(heat).flatten(1)
    top_score, peak = scores.max(1)
    away = [(place.flatten()[None] - place.flatten()[peak][:, None]).abs() <= NEAR_PEAK for place in (rows, columns)]
    share = scores**2 * (scores > 0.5 * top_score[:, None]) * away[0] * away[1]
    return (boxes * share[:, None]).sum(2) / share.sum(1, keepdim=True), top_score


class LesionType(nn.Module):
    """The type of a whole 2D picture: MONAI's ResNet with mean and maximum over places. Input [B, 1, H, W], output [B, classes] (logits)."""

    def __init__(self, classes: int, planes: list[int], layers: list[int]) -> None:
        super().__init__()
        self.body = ResNet("basic", layers, planes, spatial_dims=2, n_input_channels=1, conv1_t_size=5, conv1_t_stride=2)
        del self.body.fc, self.body.avgpool
        self.drop = nn.Dropout(0.4)
        self.kind = nn.Linear(2 * planes[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        b = self.body
        maps = b.layer4(b.layer3(b.layer2(b.layer1(b.maxpool(b.act(b.bn1(b.conv1(image))))))))
        logits: Tensor = self.kind(self.drop(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)))
        return logits


class LesionTypes(nn.Module):
    """The mean (of logits) of several LesionType networks that were trained from other seeds. In and out as LesionType."""

    def __init__(self, members: int, classes: int, planes: list[int], layers: list[int]) -> None:
        super().__init__()
        self.members = nn.ModuleList([LesionType(classes, planes, layers) for _ in range(members)])

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([m(image) for m in self.members]).mean(0)


class SlicewiseUNet(nn.Module):
    """MONAI's 2D UNet on each axial slice with its two neighbours. Input [B, 1, X, Y, Z], output [B, classes, X, Y, Z] (logits)."""

    def __init__(self, classes: int, channels: list[int]) -> None:
        super().__init__()
        self.inner = UNet(2, 3, classes, channels, [2] * (len(channels) - 1), num_res_units=2, norm="BATCH")
        self.multiple = 2 ** (len(channels) - 1)

    def forward(self, image: Tensor) -> Tensor:
        b, _, x, y, z = image.shape
        padded = functional.pad(image, (1, 1, 0, -y % self.multiple, 0, -x % self.multiple), mode="replicate")
        triples = padded[:, 0].unfold(3, 3, 1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        logits = torch.cat([self.inner(t) for t in triples.split(8)])
        return logits.unflatten(0, (b, z)).permute(0, 2, 3, 4, 1)[:, :, :x, :y]
