"""Windows of CT by name, in Hounsfield units: what becomes black and what becomes white."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

CT_WINDOWS: Final[Mapping[str, tuple[float, float]]] = MappingProxyType({
    "brain": (0.0, 80.0),
    "subdural": (-32.5, 182.5),
    "stroke": (20.0, 60.0),
    "soft_tissue": (-160.0, 240.0),
    "bone": (-500.0, 1300.0),
    "temporal_bone": (-800.0, 2000.0),
    "head": (-200.0, 1000.0),
    "wide": (-600.0, 1400.0),
})  # fmt: skip
"""(low, high): level less and plus half the width (DICOM PS3.3 C.11.2.1.3.2, linear exact). The first six are usual in
reading rooms (level and width 40/80, 75/215, 40/40, 40/400, 400/1800, 600/2800; Radiopaedia, "Windowing (CT)").
``head`` keeps fat and brain apart from air, and spongy bone from cortical; ``wide`` is 400/2000."""
