"""The ADM U-Net (Dhariwal & Nichol, NeurIPS 2021) with the state-dict keys of the public guided-diffusion checkpoints.

The network is fully convolutional apart from its attention, so it takes any picture whose sides are multiples of
:attr:`UNetConfig.multiple`. It is written for inference: there is no dropout, and weights are meant to be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddfm_core.denoiser import timestep_embedding

NORM_GROUPS = 32

_STEP_UP = re.compile(r"output_blocks\.(\d+)\.[12]\.(?:in_layers|conv)\.")

# What the public training code uses when its flag channel_mult is left empty.
_DEFAULT_CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}
# Flags of the public training code that change neither shapes nor outputs of a loaded network.
_FLAGS_WITHOUT_EFFECT = {
    "use_checkpoint", "use_fp16", "dropout", "diffusion_steps", "noise_schedule", "timestep_respacing",
    "rescale_timesteps", "rescale_learned_sigmas", "use_kl",
}  # fmt: skip


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a :class:`UNet`; the defaults are those of the public ``256x256_diffusion_uncond.pt``.

    Attributes:
        image_size: side in pixels of the pictures that the network was trained on; any other multiple runs too.
        in_channels: channels of x_t.
        out_channels: ``in_channels`` (eps alone) or twice as many (eps, then the learned variance).
        model_channels: features that ``channel_mult`` multiplies, and the width of the timestep's sinusoids.
        channel_mult: features per level as multiples of ``model_channels``; each level halves the resolution.
        num_res_blocks: residual blocks per level in the encoder; the decoder has one more.
        attention_factors: downsampling factors (powers of two) of the levels with attention; the middle has it always.
        num_heads: attention heads, where ``num_head_channels`` is None.
        num_head_channels: channels per attention head, or None to have ``num_heads`` of them at every width.
        resblock_updown: whether residual blocks resample (else a strided convolution, or nearest and a convolution).
        use_scale_shift_norm: whether the timestep scales and shifts (else it is added to the features).
        use_new_attention_order: whether the qkv channels lie as (3, heads, channels); the older checkpoints,
            the 256 x 256 one among them, have (heads, 3, channels).
    """

    image_size: int = 256
    in_channels: int = 3
    out_channels: int = 6
    model_channels: int = 256
    channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = (8, 16, 32)
    num_heads: int = 4
    num_head_channels: int | None = 64
    resblock_updown: bool = True
    use_scale_shift_norm: bool = True
    use_new_attention_order: bool = False

    def __post_init__(self) -> None:
        if not self.channel_mult or self.num_res_blocks < 1 or self.model_channels % 2:
            raise ValueError(f"a U-Net needs a level, a residual block and an even width, got {self}")
        for width in self.widths:
            if width < NORM_GROUPS or width % NORM_GROUPS:
                raise ValueError(f"widths must be multiples of the {NORM_GROUPS} norm groups, got {self.widths}")
        factors = [2**level for level in range(len(self.widths))]
        if not set(self.attention_factors) <= set(factors):
            raise ValueError(f"attention_factors {self.attention_factors} are not among the levels' factors {factors}")
        attended = {width for width, factor in zip(self.widths, factors, strict=True) if self.attends(factor)}
        for width in attended | {self.widths[-1]}:
            divisor = self.num_heads if self.num_head_channels is None else self.num_head_channels
            if divisor < 1 or width % divisor:
                unit = "heads" if self.num_head_channels is None else "channels per head"
                raise ValueError(f"{width} attention channels cannot be split by {divisor} {unit}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Features per level, from full resolution down."""
        return tuple(round(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def multiple(self) -> int:
        """Height and width of an input must be multiples of this many pixels."""
        return int(2 ** (len(self.channel_mult) - 1))

    def attends(self, factor: int) -> bool:
        """Whether the level downsampled by ``factor`` has attention."""
        return factor in self.attention_factors

    def heads(self, width: int) -> int:
        """Attention heads at ``width`` channels."""
        return self.num_heads if self.num_head_channels is None else width // self.num_head_channels

    def as_json(self) -> dict[str, Any]:
        """The fields as plain JSON values, as a weights file keeps them."""
        lists = {"channel_mult": list(self.channel_mult), "attention_factors": list(self.attention_factors)}
        return asdict(self) | lists

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> UNetConfig:
        """Rebuild from :meth:`as_json`; an unknown field raises ``TypeError``."""
        tuples = {name: tuple(fields[name]) for name in ("channel_mult", "attention_factors") if name in fields}
        return cls(**(dict(fields) | tuples))

    @classmethod
    def from_flags(cls, flags: Mapping[str, Any]) -> UNetConfig:
        """The configuration that a public model card gives as command-line flags.

        Args:
            flags: names and values as in guided-diffusion's README, such as ``{"image_size": 256, "num_channels":
                256, "attention_resolutions": "32,16,8", "learn_sigma": True, ...}``; a flag that is left out has
                the training code's own default, flags of the diffusion process are skipped.

        Raises:
            ValueError: an unknown flag, or one that this network does not have (class_cond).
        """
        left = dict(flags)
        image_size = left.pop("image_size", 64)
        factors = [image_size // int(part) for part in str(left.pop("attention_resolutions", "16,8")).split(",")]
        mult = left.pop("channel_mult", "")
        if not mult and image_size not in _DEFAULT_CHANNEL_MULT:
            raise ValueError(f"image_size {image_size} has no default channel_mult; give it")
        channel_mult = tuple(float(part) for part in mult.split(",")) if mult else _DEFAULT_CHANNEL_MULT[image_size]
        head_channels = left.pop("num_head_channels", -1)
        config = cls(
            image_size=image_size,
            out_channels=6 if left.pop("learn_sigma", False) else 3,
            model_channels=left.pop("num_channels", 128),
            channel_mult=channel_mult,
            num_res_blocks=left.pop("num_res_blocks", 2),
            # A factor coarser than the coarsest level asks for nothing.
            attention_factors=tuple(sorted({factor for factor in factors if factor < 2 ** len(channel_mult)})),
            num_heads=left.pop("num_heads", 4),
            num_head_channels=None if head_channels == -1 else head_channels,
            resblock_updown=left.pop("resblock_updown", False),
            use_scale_shift_norm=left.pop("use_scale_shift_norm", True),
            use_new_attention_order=left.pop("use_new_attention_order", False),
        )
        if left.pop("class_cond", False):
            raise ValueError("class_cond: a class-conditional network is not an unconditional prior")
        if left.pop("num_heads_upsample", -1) not in (-1, config.num_heads):
            raise ValueError("num_heads_upsample: another number of heads in the decoder is not supported")
        unknown = sorted(set(left) - _FLAGS_WITHOUT_EFFECT)
        if unknown:
            raise ValueError(f"unknown flags {unknown}")
        return config

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], **known: Any) -> UNetConfig:
        """Recognise the configuration from the keys and shapes of a checkpoint.

        Four things leave no trace in the shapes and are set as the public checkpoints have them: ``image_size`` is
        8 pixels at the coarsest level; networks whose residual blocks resample have 64 channels per head, others
        4 heads (the training code's default); the attention order is the older one.

        Args:
            state: weights under guided-diffusion's keys, on any device, the meta device included.
            known: fields of this class that are known otherwise and take the place of what is recognised.

        Raises:
            ValueError: the keys are not those of an unconditional guided-diffusion U-Net, or the sizes cannot be.
        """

        def size(key: str, dim: int) -> int:
            if key not in state or state[key].ndim <= dim:
                raise ValueError(f"no {key!r} of {dim + 1} or more dimensions: not a guided-diffusion U-Net")
            return state[key].shape[dim]

        def count(part: str) -> int:
            return len({key.split(".")[1] for key in state if key.startswith(f"{part}.")})

        if "label_emb.weight" in state:
            raise ValueError("key 'label_emb.weight': a class-conditional network is not an unconditional prior")
        in_channels = size("input_blocks.0.0.weight", 1)
        model_channels = size("time_embed.0.weight", 1)
        # A step up in resolution shows in the decoder as a block that ends with a second residual block or a "conv".
        steps_up = {match[1] for key in state if (match := _STEP_UP.match(key))}
        levels = len(steps_up) + 1
        encoder, decoder = count("input_blocks"), count("output_blocks")
        per_level = decoder // levels
        if per_level < 2 or not encoder == decoder == levels * per_level:
            raise ValueError(
                f"{encoder} input and {decoder} output blocks are not {levels} levels of a guided-diffusion U-Net"
            )
        first_of_level = [f"input_blocks.{1 + level * per_level}" for level in range(levels)]
        widths = [size(f"{block}.0.in_layers.2.weight", 0) for block in first_of_level]
        resblock_updown = f"input_blocks.{per_level}.0.op.weight" not in state
        recognised: dict[str, Any] = {
            "image_size": 8 * 2 ** (levels - 1),
            "in_channels": in_channels,
            "out_channels": size("out.2.weight", 0),
            "model_channels": model_channels,
            "channel_mult": tuple(width / model_channels for width in widths),
            "num_res_blocks": per_level - 1,
            "attention_factors": tuple(
                2**level for level, block in enumerate(first_of_level) if f"{block}.1.qkv.weight" in state
            ),
            "num_head_channels": 64 if resblock_updown else None,
            "resblock_updown": resblock_updown,
            "use_scale_shift_norm": size("input_blocks.1.0.emb_layers.1.weight", 0) == 2 * widths[0],
        }
        return cls(**(recognised | known))


class GroupNorm(nn.GroupNorm):
    """Group normalisation of [B, C, ...] over 32 groups, float32 inside and out whatever the input is."""

    def __init__(self, channels: int) -> None:
        super().__init__(NORM_GROUPS, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Features of any floating type to float32 features of the same shape."""
        return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps)


class AttentionBlock(nn.Module):
    """Self-attention among the pixels of [B, C, h, w], added to its input (Vaswani et al. 2017)."""

    def __init__(self, width: int, config: UNetConfig) -> None:
        super().__init__()
        self.heads = config.heads(width)
        self.new_order = config.use_new_attention_order
        self.norm = GroupNorm(width)
        # Width-1 convolutions by their keys' shapes [out, in, 1]; they run as linear layers on [B, h w, C].
        self.qkv = nn.Conv1d(width, 3 * width, 1)
        self.proj_out = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, C, h, w] to features of the same shape and type."""
        batch, channels, height, width = x.shape
        tokens = self.norm(x).to(self.qkv.weight.dtype).flatten(2).transpose(1, 2)
        qkv = F.linear(tokens, self.qkv.weight.squeeze(-1), self.qkv.bias)
        if self.new_order:
            q, k, v = qkv.view(batch, height * width, 3, self.heads, -1).unbind(2)
        else:
            q, k, v = qkv.view(batch, height * width, self.heads, 3, -1).unbind(3)
        # [B, h w, heads, c] -> [B, heads, h w, c], with c contiguous as the fused kernels want it.
        h = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        h = F.linear(h.transpose(1, 2).flatten(2), self.proj_out.weight.squeeze(-1), self.proj_out.bias)
        return x + h.transpose(1, 2).reshape(batch, channels, height, width)


def _halve(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


class ResBlock(nn.Module):
    """Two normalised convolutions around the timestep's influence, added to the (projected) input.

    Args:
        width_in, width: channels in and out.
        resample: halves or doubles the resolution of both branches between activation and first convolution.
    """

    def __init__(
        self, width_in: int, width: int, config: UNetConfig, resample: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = config.use_scale_shift_norm
        modulation = 2 * width if self.scale_shift else width
        self.in_layers = nn.Sequential(GroupNorm(width_in), nn.SiLU(), nn.Conv2d(width_in, width, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.model_channels, modulation))
        # Identity stands where training has its dropout, so that the convolution keeps its key.
        self.out_layers = nn.Sequential(
            GroupNorm(width), nn.SiLU(), nn.Identity(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Features [B, width_in, h, w] and embedding [B or 1, E] to features [B, width, h', w'].

        Norms, modulation and activations are float32; the convolutions and the sum are in the type of ``x``.
        """
        norm, activation, conv = self.in_layers
        h: Tensor = activation(norm(x)).to(x.dtype)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = conv(h)

        emb = self.emb_layers(emb)[:, :, None, None]
        norm, activation, _, conv = self.out_layers
        if self.scale_shift:
            scale, shift = emb.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + emb)
        h = conv(activation(h).to(x.dtype))
        residual: Tensor = self.skip_connection(x)
        return residual + h


class Downsample(nn.Module):
    """Strided convolution to half the resolution, for networks whose residual blocks do not resample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, C, h, w] to [B, C, h / 2, w / 2]."""
        h: Tensor = self.op(x)
        return h


class Upsample(nn.Module):
    """Pixel repetition and a convolution at twice the resolution, the counterpart of :class:`Downsample`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, C, h, w] to [B, C, 2 h, 2 w]."""
        h: Tensor = self.conv(_double(x))
        return h


class Block(nn.ModuleList):
    """Layers in a row, of which the residual blocks see the timestep's embedding."""

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        """Features [B, C, h, w] and embedding [B or 1, E] through all layers."""
        for layer in self:
            h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
        return h


class UNet(nn.Module):
    """Epsilon network: (x_t [B, C, H, W], timesteps [B or 1]) -> [B, ``out_channels``, H, W] float32.

    x_t is a picture in [-1, 1] noised to the timestep; timesteps are the raw 0..T-1 of training. H and W must be
    multiples of ``config.multiple``. The random weights of a new network are not those that training starts from.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        embedding = 4 * config.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(config.model_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        levels = list(enumerate(config.widths))
        width = config.widths[0]
        self.input_blocks = nn.ModuleList([Block([nn.Conv2d(config.in_channels, width, 3, padding=1)])])
        skips = [width]
        for level, width_out in levels:
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(width, width_out, config)]
                width = width_out
                if config.attends(2**level):
                    layers.append(AttentionBlock(width, config))
                self.input_blocks.append(Block(layers))
                skips.append(width)
            if level < len(levels) - 1:
                down = ResBlock(width, width, config, _halve) if config.resblock_updown else Downsample(width)
                self.input_blocks.append(Block([down]))
                skips.append(width)
        self.middle_block = Block(
            [ResBlock(width, width, config), AttentionBlock(width, config), ResBlock(width, width, config)]
        )
        self.output_blocks = nn.ModuleList()
        for level, width_out in reversed(levels):
            for index in range(config.num_res_blocks + 1):
                layers = [ResBlock(width + skips.pop(), width_out, config)]
                width = width_out
                if config.attends(2**level):
                    layers.append(AttentionBlock(width, config))
                if level > 0 and index == config.num_res_blocks:
                    up = ResBlock(width, width, config, _double) if config.resblock_updown else Upsample(width)
                    layers.append(up)
                self.output_blocks.append(Block(layers))
        self.out = nn.Sequential(GroupNorm(width), nn.SiLU(), nn.Conv2d(width, config.out_channels, 3, padding=1))

    @property
    def torso_dtype(self) -> torch.dtype:
        """Type of the convolutions and of the features between them."""
        return next(self.input_blocks.parameters()).dtype

    def set_torso_dtype(self, dtype: torch.dtype) -> None:
        """Put the convolutions and attention projections of all blocks in ``dtype``.

        Norms, timestep embedding and the output layers stay float32, as in the public half-precision sampling.
        """
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(dtype)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        """See the class."""
        emb = self.time_embed(timestep_embedding(timesteps, self.config.model_channels))
        h = x_t.to(self.torso_dtype)
        skips: list[Tensor] = []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb)
        prediction: Tensor = self.out(h)
        return prediction
