"""EfficientSAM in plain PyTorch with fused attention: what a good torch programmer would write.

    esam bench predict random:efficientsam_ti --against tests/bench/plain_torch.py:efficientsam

The arithmetic is that of our encoder and decoder, and so are the weights, taken by the names of
EfficientSAM's release. All prompts of a picture are decoded at once, with the embedding expanded to
one for each prompt, as the release does it.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from esam_jax.bench import transformers_sam
from esam_jax.convert import state_dict
from esam_jax.convert.families import efficientsam as release
from esam_jax.ops import images


def efficientsam(sam):
    """The rival (esam_jax/bench/baselines.py) with the weights of `sam`, in its type."""
    state = state_dict.to_state_dict(sam.params, release.FAMILY, sam.config)
    model = EfficientSam(sam.config)
    model.load_state_dict({k: torch.tensor(x) for k, x in state.items()}, strict=True)
    dtype = getattr(torch, sam.model.compute.dtype)
    return Asked(model.eval().to(transformers_sam.torch_device(), dtype))


class Asked:
    """The network, asked as `rivals` says."""

    def __init__(self, model):
        self.model, self.weight = model, model.mask_decoder.iou_token.weight
        self.mean, self.std = (
            torch.tensor(x, device=self.weight.device)[:, None, None]
            for x in (images.MEAN, images.STD)
        )

    def put(self, array):
        return torch.from_numpy(array).to(self.weight.device)

    @torch.inference_mode()
    def encode(self, pictures):
        pixels = (pictures.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        return self.model.image_encoder(pixels.to(self.weight.dtype))

    @torch.inference_mode()
    def decode(self, embedding, points, labels):
        return self.model.mask_decoder(embedding, *self.model.prompt_encoder(points, labels))

    @torch.inference_mode()
    def __call__(self, pictures, points, labels):
        given = [self.put(array) for array in (pictures, points, labels)]
        logits, _ = self.decode(self.encode(given[0]), *given[1:])
        candidates = logits[:, :, 1:].float()
        full = F.interpolate(candidates.flatten(0, 1), pictures.shape[1:3], mode="bicubic")
        return (full >= 0).unflatten(0, candidates.shape[:2]).cpu().numpy()


class EfficientSam(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.image_encoder = ImageEncoder(config.encoder)
        self.prompt_encoder = PromptEncoder(config)
        self.mask_decoder = MaskDecoder(config.decoder)


# ----------------------------------------------------------------------------------- encoder


class ImageEncoder(nn.Module):
    """Normalised pixels [B, 3, H, W] to features [B, C, h, w]."""

    def __init__(self, cfg):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, cfg.width, cfg.patch_px, cfg.patch_px)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + cfg.pretrain_grid**2, cfg.width))
        self.blocks = nn.Sequential(*(Block(cfg) for _ in range(cfg.depth)))
        self.neck = nn.Sequential(
            nn.Conv2d(cfg.width, cfg.neck_width, 1, bias=False),
            ChannelNorm(cfg.neck_width, eps=1e-6),
            nn.Conv2d(cfg.neck_width, cfg.neck_width, 3, padding=1, bias=False),
            ChannelNorm(cfg.neck_width, eps=1e-6),
        )

    def forward(self, pixels):
        x = self.patch_embed.proj(pixels)
        h, w = x.shape[2:]
        side = math.isqrt(self.pos_embed.shape[1])
        table = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        table = F.interpolate(table, (h, w), mode="bicubic", align_corners=False)
        x = self.blocks((x + table).flatten(2).transpose(1, 2))
        return self.neck(x.transpose(1, 2).unflatten(2, (h, w)))


class Block(nn.Module):
    """Pre-norm, exact GELU."""

    def __init__(self, cfg):
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.width, eps=1e-6)
        self.attn = SelfAttention(cfg.width, cfg.heads)
        self.norm2 = nn.LayerNorm(cfg.width, eps=1e-6)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(cfg.width, cfg.mlp_ratio * cfg.width)
        self.mlp.fc2 = nn.Linear(cfg.mlp_ratio * cfg.width, cfg.width)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x))))


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of [B, C, h, w]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


# ----------------------------------------------------------------------------------- prompts


class PromptEncoder(nn.Module):
    """Points [B, Q, P, 2] and labels to tokens [B, Q, slots, C], and the code of the grid."""

    def __init__(self, config):
        super().__init__()
        cfg = config.decoder
        self.slots, self.image_px, self.grid = cfg.point_slots, config.image_px, config.encoder.grid
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer(
            "positional_encoding_gaussian_matrix", torch.empty(2, cfg.width // 2)
        )
        self.invalid_points = nn.Embedding(1, cfg.width)
        self.point_embeddings = nn.Embedding(1, cfg.width)
        self.bbox_top_left_embeddings = nn.Embedding(1, cfg.width)
        self.bbox_bottom_right_embeddings = nn.Embedding(1, cfg.width)

    def forward(self, points, labels):
        spare = self.slots - labels.shape[2]
        points, labels = (
            F.pad(points, (0, 0, 0, spare), value=-1.0),
            F.pad(labels, (0, spare), value=-1),
        )
        tokens = self._code((points + 0.5) / self.image_px)
        for label, embedding in (
            (-1, self.invalid_points),
            (1, self.point_embeddings),
            (2, self.bbox_top_left_embeddings),
            (3, self.bbox_bottom_right_embeddings),
        ):
            tokens = tokens + (labels == label)[..., None] * embedding.weight
        cells = (torch.arange(self.grid, device=points.device) + 0.5) / self.grid
        y, x = torch.meshgrid(cells, cells, indexing="ij")
        return tokens, self._code(torch.stack([x, y], dim=-1)).flatten(0, 1)

    def _code(self, coords):
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * coords - 1) @ matrix.float())
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(matrix.dtype)


# ----------------------------------------------------------------------------------- decoder


class MaskDecoder(nn.Module):
    """Features [B, C, h, w] and tokens [B, Q, P, C] to logits [B, Q, M, 4h, 4w] and scores."""

    def __init__(self, cfg):
        super().__init__()
        C, self.masks = cfg.width, cfg.mask_tokens
        self.transformer = TwoWay(cfg)
        self.iou_token = nn.Embedding(1, C)
        self.mask_tokens = nn.Embedding(cfg.mask_tokens, C)
        self.final_output_upscaling_layers = nn.Sequential(
            nn.Sequential(nn.ConvTranspose2d(C, C // 4, 2, 2), nn.GroupNorm(1, C // 4), nn.GELU()),
            nn.Sequential(nn.ConvTranspose2d(C // 4, C // 8, 2, 2), nn.GELU()),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(C, [C, C], C // 8) for _ in range(cfg.mask_tokens)
        )
        self.iou_prediction_head = Perceptron(C, [cfg.iou_width] * 2, cfg.mask_tokens)

    def forward(self, embedding, sparse, position):
        (B, Q), (C, h, w) = sparse.shape[:2], embedding.shape[1:]
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([learned.expand(B, Q, -1, -1), sparse], dim=2).flatten(0, 1)
        image = embedding.flatten(2).transpose(1, 2)
        image = image[:, None].expand(B, Q, h * w, C).flatten(0, 1)
        tokens, image = self.transformer(tokens, image, position)
        upscaled = image.transpose(1, 2).unflatten(2, (h, w))
        upscaled = self.final_output_upscaling_layers(upscaled)
        heads = torch.stack(
            [mlp(tokens[:, 1 + m]) for m, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        logits = (heads @ upscaled.flatten(2)).unflatten(2, (4 * h, 4 * w))
        scores = self.iou_prediction_head(tokens[:, 0])
        return logits.unflatten(0, (B, Q)), scores.unflatten(0, (B, Q))


class Perceptron(nn.Module):
    """Linear and GELU for each hidden width, then linear."""

    def __init__(self, wide, hidden, out):
        super().__init__()
        sizes = [wide, *hidden]
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.GELU()) for a, b in zip(sizes, hidden))
        )
        self.fc = nn.Linear(sizes[-1], out)

    def forward(self, x):
        return self.fc(self.layers(x))


class TwoWay(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(cfg, first=i == 0) for i in range(cfg.depth))
        self.final_attn_token_to_image = Attention(cfg.width, cfg.width // 2, cfg.heads)
        self.norm_final_attn = nn.LayerNorm(cfg.width)

    def forward(self, tokens, image, position):
        start = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, start, position)
        look = self.final_attn_token_to_image(tokens + start, image + position, image)
        return self.norm_final_attn(tokens + look), image


class TwoWayBlock(nn.Module):
    def __init__(self, cfg, first):
        super().__init__()
        C, self.first = cfg.width, first
        self.self_attn = Attention(C, C, cfg.heads)
        self.cross_attn_token_to_image = Attention(C, C // 2, cfg.heads)
        self.mlp = Perceptron(C, [cfg.mlp_width], C)
        self.cross_attn_image_to_token = Attention(C, C // 2, cfg.heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(C) for _ in range(4))

    def forward(self, x, image, start, position):
        x = x if self.first else x + start
        x = self.norm1(x + self.self_attn(x, x, x))
        placed = image + position
        x = self.norm2(x + self.cross_attn_token_to_image(x + start, placed, image))
        x = self.norm3(x + self.mlp(x))
        return x, self.norm4(image + self.cross_attn_image_to_token(placed, x + start, x))


class Attention(nn.Module):
    def __init__(self, width, inner, heads):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q, k, v):
        q, k, v = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
