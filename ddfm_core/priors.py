"""Priors: every denoising network as one function (x_t, timestep) -> x0_pred, together with its schedule.

This is the one file of the core that opens anything, and it opens local weights only; nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ddfm_core.denoiser import Denoiser, DenoiserConfig
from ddfm_core.schedule import Schedule, cosine_schedule, linear_schedule
from ddfm_core.unet import UNet, UNetConfig

ScheduleName: TypeAlias = Literal["linear", "cosine"]

# Metadata key of a safetensors file under which it says what its weights are.
METADATA_KEY = "ddfm_prior"

_SCHEDULES: dict[str, Callable[[int], Schedule]] = {"linear": linear_schedule, "cosine": cosine_schedule}
_TORCH_SUFFIXES = (".pt", ".pth")
_TORSO_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class PriorError(ValueError):
    """Weights that cannot be used as a prior; the message says why and what to do."""


class Prior(ABC):
    """A denoising network that predicts the clean picture from a noised one.

    Attributes:
        schedule: noise level of each timestep, as in training.
        channels: picture channels, 1 (grey) or 3 (RGB).
        multiple: height and width of an input must be multiples of this many pixels.
        sha256: identity of the weights, hexadecimal; empty where it is not known.
        device: where inputs must lie and outputs will.
    """

    def __init__(
        self, schedule: Schedule, channels: int, multiple: int, sha256: str, device: torch.device | str
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"a prior works on 1 or 3 channels, got {channels}")
        if multiple < 1:
            raise ValueError(f"multiple must be at least 1, got {multiple}")
        self.schedule = schedule
        self.channels = channels
        self.multiple = multiple
        self.sha256 = sha256
        self.device = torch.device(device)

    def __call__(self, x_t: Tensor, timestep: int) -> Tensor:
        """The expected clean picture given x_t (DDFM, Zhao et al., ICCV 2023, Eq. 4), not clamped.

        Args:
            x_t: [B, channels, H, W] float32, sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps with x0 in [-1, 1].
            timestep: 0 (least noise) to T - 1 of :attr:`schedule`, the same for the whole batch.

        Returns:
            x0_pred, [B, channels, H, W] float32; about [-1, 1], but free to leave it.

        Raises:
            ValueError: wrong channel count, sides that are not multiples of :attr:`multiple`, no such timestep.
        """
        if x_t.ndim != 4 or x_t.shape[1] != self.channels:
            raise ValueError(f"the prior takes [B, {self.channels}, H, W], got {list(x_t.shape)}")
        height, width = x_t.shape[-2:]
        if height % self.multiple or width % self.multiple:
            raise ValueError(f"height and width must be multiples of {self.multiple}, got {height} x {width}")
        if not 0 <= timestep < self.schedule.num_timesteps:
            raise ValueError(f"timestep must be 0..{self.schedule.num_timesteps - 1}, got {timestep}")
        return self.predict_x0(x_t, timestep)

    @abstractmethod
    def predict_x0(self, x_t: Tensor, timestep: int) -> Tensor:
        """What :meth:`__call__` returns, for arguments that it has checked."""


class DenoiserPrior(Prior):
    """The bundled kind: a v-prediction :class:`~ddfm_core.denoiser.Denoiser`.

    Args:
        network: taken over: put in inference mode and in channels-last layout.
        schedule: the one that it was trained with.
        sha256: identity of the weights.
        dtype: float32, or bfloat16 or float16 to run the network under autocast, as it was trained.
    """

    def __init__(
        self, network: Denoiser, schedule: Schedule, sha256: str = "", dtype: torch.dtype = torch.float32
    ) -> None:
        self.network = network
        _prepare(network)
        # Known on the host: looking at the table there must not wait for the device.
        shares = network.linear.share.amax(1).tolist() if network.linear is not None else []
        self._linear_from = next((timestep for timestep, share in enumerate(shares) if share > 0), len(shares))
        self.dtype = _checked_dtype(dtype)
        device = next(network.parameters()).device
        super().__init__(schedule, network.config.channels, network.config.multiple, sha256, device)

    def predict_x0(self, x_t: Tensor, timestep: int) -> Tensor:
        """x0 = sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v (Salimans & Ho, ICLR 2022, app. D).

        From the timestep on at which a linear denoiser has a share, the weighted mean of both estimates.
        """
        alpha_bar = float(self.schedule.alphas_cumprod[timestep])
        x_t = x_t.float()
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            v: Tensor = self.network(_channels_last(x_t), _one_timestep(x_t, timestep))
        x0_pred = (math.sqrt(alpha_bar) * x_t - math.sqrt(1 - alpha_bar) * v.float()).contiguous()
        if self.network.linear is None or timestep < self._linear_from:
            return x0_pred
        sigma = float(self.schedule.sigmas[timestep])
        return self.network.linear(x_t / math.sqrt(alpha_bar), sigma, x0_pred, timestep)  # type: ignore[no-any-return]


class UNetPrior(Prior):
    """An epsilon-prediction :class:`~ddfm_core.unet.UNet`; a learned variance is left aside.

    Args:
        network: taken over: put in inference mode and in channels-last layout. Its torso's type decides the
            precision, see :meth:`~ddfm_core.unet.UNet.set_torso_dtype`.
        schedule: the one that it was trained with.
        sha256: identity of the weights.

    Raises:
        ValueError: the network's outputs are neither eps nor eps and a variance of pictures like its inputs.
    """

    def __init__(self, network: UNet, schedule: Schedule, sha256: str = "") -> None:
        config = network.config
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise ValueError(
                f"{config.out_channels} outputs for {config.in_channels} inputs are neither eps nor eps and variance"
            )
        self.network = network
        _prepare(network)
        device = next(network.parameters()).device
        super().__init__(schedule, config.in_channels, config.multiple, sha256, device)

    def predict_x0(self, x_t: Tensor, timestep: int) -> Tensor:
        """x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (Ho et al. 2020, sec. 3.2)."""
        alpha_bar = float(self.schedule.alphas_cumprod[timestep])
        x_t = x_t.float()
        outputs: Tensor = self.network(_channels_last(x_t), _one_timestep(x_t, timestep))
        eps = outputs[:, : self.channels]
        return (math.sqrt(1 / alpha_bar) * x_t - math.sqrt(1 / alpha_bar - 1) * eps).contiguous()


class CallablePrior(Prior):
    """Any function as a prior: one's own network, or a closed form.

    Args:
        function: (x_t [B, channels, H, W], timestep) -> x0_pred of the same shape, unclamped.
        schedule: noise level of each timestep.
        channels: 1 (grey) or 3 (RGB).
        multiple: sides that the function takes are multiples of this many pixels.
        sha256: what identifies the function's weights in result rows.
        device: where the function works.
    """

    def __init__(
        self,
        function: Callable[[Tensor, int], Tensor],
        schedule: Schedule,
        channels: int,
        multiple: int = 1,
        sha256: str = "",
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(schedule, channels, multiple, sha256, device)
        self.function = function

    def predict_x0(self, x_t: Tensor, timestep: int) -> Tensor:
        """What the function returns; another shape than that of ``x_t`` raises ``ValueError``."""
        x0_pred = self.function(x_t, timestep)
        if x0_pred.shape != x_t.shape:
            raise ValueError(f"the prior's function returned {list(x0_pred.shape)} for {list(x_t.shape)}")
        return x0_pred


def load_prior(
    source: str | Path = "bundled",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: UNetConfig | None = None,
    schedule: Schedule | ScheduleName | None = None,
) -> Prior:
    """Load a prior from local weights.

    Args:
        source: ``"bundled"``, the small grey prior of this package; or the path of a ``.safetensors`` file
            (one that describes itself under the metadata key ``ddfm_prior``, or guided-diffusion keys) or of a
            ``.pt`` or ``.pth`` file with a guided-diffusion state dict, such as ``256x256_diffusion_uncond.pt``.
        device: where the weights go.
        dtype: float32, bfloat16 or float16 for the bulk of the network; inputs and outputs stay float32.
        config: shape of a U-Net; without it the file's own description counts, or else what
            :meth:`~ddfm_core.unet.UNetConfig.from_state_dict` recognises: see there what cannot be recognised.
        schedule: without it the file's own description counts, or else linear with 1000 timesteps. A name
            stands for 1000 timesteps, or as many as the file says.

    Raises:
        PriorError: no such file, not a file of plain tensors, weights that do not fit the network, or a schedule
            that does not exist.
        ValueError: another ``dtype``.
    """
    with _weights_file(source) as path:
        return _load_file(path, device, dtype, config, schedule)


def prior_sha256(source: str | Path = "bundled") -> str:
    """The :attr:`Prior.sha256` that :func:`load_prior` of the same ``source`` would give, without loading it.

    Raises:
        PriorError: no such file, one that cannot be read, or not one of weights by its suffix.
    """
    with _weights_file(source) as path:
        return _sha256(path)


@contextmanager
def _weights_file(source: str | Path) -> Iterator[Path]:
    """The file that ``source`` means, for as long as the context lasts."""
    if source == "bundled":
        resource = files("ddfm_core.weights") / "prior.safetensors"
        if not resource.is_file():
            raise PriorError(
                "this installation lacks the bundled prior (ddfm_core/weights/prior.safetensors): install the "
                "package again, or give the path of a prior's weights"
            )
        with as_file(resource) as path:
            yield path
        return
    path = Path(source)
    if path.is_dir():
        raise PriorError(f"{path} is a folder: give the weights file itself")
    if not path.is_file():
        raise PriorError(f"{path} does not exist; weights are never downloaded: fetch the file first")
    if path.suffix not in (*_TORCH_SUFFIXES, ".safetensors"):
        raise PriorError(
            f"{path}: weights are read from .safetensors, .pt and .pth files, not {path.suffix!r}: convert it"
        )
    yield path


@dataclass(frozen=True)
class _Description:
    """What a weights file says of itself under :data:`METADATA_KEY`."""

    network: DenoiserConfig | UNetConfig
    schedule: str
    num_timesteps: int

    @classmethod
    def from_metadata(cls, text: str) -> _Description:
        """Parse ``{"network", "schedule", "num_timesteps", "prediction"}``; what is wrong raises ``ValueError``.

        ``prediction`` tells the networks apart: a Denoiser predicts v, a UNet epsilon.
        """
        try:
            fields = json.loads(text)
            network, prediction = fields["network"], fields["prediction"]
            if prediction not in ("v", "epsilon"):
                raise ValueError(f"prediction {prediction!r} is neither 'v' nor 'epsilon'")
            rebuild = DenoiserConfig.from_json if prediction == "v" else UNetConfig.from_json
            return cls(rebuild(network), str(fields["schedule"]), int(fields["num_timesteps"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _load_file(
    path: Path,
    device: torch.device | str,
    dtype: torch.dtype,
    config: UNetConfig | None,
    schedule: Schedule | ScheduleName | None,
) -> Prior:
    _checked_dtype(dtype)
    state, description = _read(path)
    table = _schedule(schedule or (description.schedule if description else "linear"), description)
    if description and isinstance(description.network, DenoiserConfig):
        if config is not None:
            raise PriorError(f"{path} holds a Denoiser, which config= cannot describe: leave config= out")
        try:
            with torch.device("meta"):
                denoiser = Denoiser(description.network)
        except (RuntimeError, TypeError, ValueError) as error:
            raise PriorError(f"{path}: its metadata {METADATA_KEY!r} describes no possible network: {error}") from error
        _assign(denoiser, state, device, path)
        return DenoiserPrior(denoiser, table, _sha256(path), dtype)
    if config is None and description and isinstance(description.network, UNetConfig):
        config = description.network
    try:
        with torch.device("meta"):
            unet = UNet(config or UNetConfig.from_state_dict(state))
    except ValueError as error:
        raise PriorError(f"{path}: {error}; if these are the weights of a U-Net, describe it by config=") from error
    unet.set_torso_dtype(dtype)
    _assign(unet, state, device, path)
    try:
        return UNetPrior(unet, table, _sha256(path))
    except ValueError as error:
        raise PriorError(f"{path}: {error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], _Description | None]:
    """Tensors by key, on the CPU, and what the file says of itself."""
    return (_read_torch(path), None) if path.suffix in _TORCH_SUFFIXES else _read_safetensors(path)


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        # Files older than the zip format cannot be mapped into memory.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise PriorError(
            f"{path} is damaged or holds more than tensors, and reading the rest could run code from the file: where "
            "you trust it, load it elsewhere and save its state dict alone"
        ) from error
    except Exception as error:  # a file that is no checkpoint fails in the unpickler in too many ways to list
        raise PriorError(f"{path} cannot be read as a torch file, fetch it again: {error!r}") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        found = f"a dict of {list(state)[:5]}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise PriorError(f"{path} holds {found}, not tensors by key: save the network's state dict alone")
    return state


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], _Description | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            state: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise PriorError(f"{path} cannot be read as a safetensors file, fetch it again: {error}") from error
    if METADATA_KEY not in metadata:
        return state, None
    try:
        return state, _Description.from_metadata(metadata[METADATA_KEY])
    except ValueError as error:
        raise PriorError(f"{path}: its metadata {METADATA_KEY!r} is not understood, write it again: {error}") from error


def _assign(network: nn.Module, state: Mapping[str, Tensor], device: torch.device | str, path: Path) -> None:
    """Give a network on the meta device its weights, in the types that it has there; nothing may be left over."""
    expected = network.state_dict()
    for key, parameter in expected.items():
        if key not in state:
            raise PriorError(f"{path}: missing key {key!r}; the weights are of another network, or not complete")
        if state[key].shape != parameter.shape:
            shapes = f"{list(state[key].shape)}, the network has {list(parameter.shape)}"
            raise PriorError(f"{path}: key {key!r} has shape {shapes}; the weights are of another network")
        if not state[key].is_floating_point():
            raise PriorError(f"{path}: key {key!r} holds {state[key].dtype}, not floating-point weights")
    unexpected = next((key for key in state if key not in expected), None)
    if unexpected is not None:
        raise PriorError(f"{path}: unexpected key {unexpected!r}; the weights are of another network")
    weights = {key: state[key].to(device, parameter.dtype) for key, parameter in expected.items()}
    network.load_state_dict(weights, assign=True)


def _schedule(schedule: Schedule | str, description: _Description | None) -> Schedule:
    if isinstance(schedule, Schedule):
        return schedule
    if schedule not in _SCHEDULES:
        raise PriorError(f"unknown schedule {schedule!r}: use one of {sorted(_SCHEDULES)}, or a Schedule")
    try:
        return _SCHEDULES[schedule](description.num_timesteps if description else 1000)
    except ValueError as error:
        raise PriorError(f"the file's number of timesteps is impossible: {error}") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PriorError(f"{path} cannot be read: {error}") from error


def _checked_dtype(dtype: torch.dtype) -> torch.dtype:
    if dtype not in _TORSO_DTYPES:
        raise ValueError(f"a prior runs in float32, bfloat16 or float16, not in {dtype}")
    return dtype


def _prepare(network: nn.Module) -> None:
    """Inference mode, and the layout that convolutions like best: up to 1.5 times as fast on a CPU, native on a GPU."""
    network.requires_grad_(False).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _one_timestep(x_t: Tensor, timestep: int) -> Tensor:
    """The timestep as a tensor [1] that broadcasts, so that its embedding cannot depend on the batch size."""
    return torch.full((1,), timestep, device=x_t.device)
