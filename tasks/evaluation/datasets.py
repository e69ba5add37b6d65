"""The public data sets of image fusion, recognised from the names of their folders.

A data set is a folder with one folder per side, such as ``ir`` beside ``vi`` or ``PET`` beside ``MRI``; which names
count stands in ``SIDE_NAMES``. Whose data it is, and so which published rows belong to it, is told by the names above:
``docs/evaluation.md`` lists the layouts. The original TNO collection has no such folders for its single scenes: there,
a folder that holds one infrared and one visible picture is a pair.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from tasks.codes import ConfigurationError
from tasks.index import split_suffix
from tasks.read.raster import RASTER_SUFFIXES
from tasks.storage import absolute, list_files


class Family(StrEnum):
    """Collections with published rows."""

    TNO = "TNO"
    ROADSCENE = "RoadScene"
    MSRS = "MSRS"
    M3FD = "M3FD"
    HARVARD_CT = "Harvard MRI-CT"
    HARVARD_PET = "Harvard MRI-PET"
    HARVARD_SPECT = "Harvard MRI-SPECT"


HARVARD: Final = (Family.HARVARD_CT, Family.HARVARD_PET, Family.HARVARD_SPECT)
"""The paper has one row for the three of them."""


@dataclass(frozen=True)
class SetPair:
    """One pair of a data set; None stands for a partner that is not there."""

    key: str
    first: str | None
    second: str | None


@dataclass(frozen=True)
class DataSet:
    """A data set that was recognised.

    Attributes:
        name: of its folder below the destination.
        folder: where it lies.
        family: whose data it is; None where the names do not tell.
        modality_first, modality_second: such as infrared and visible.
        pairs: by key; what has no partner is among them, and so is each file of a key that has several.
        optional: whether it is a split that others train on, taken only when it is named.
    """

    name: str
    folder: str
    family: Family | None
    modality_first: str
    modality_second: str
    pairs: tuple[SetPair, ...]
    optional: bool = False

    def every(self, step: int) -> DataSet:
        """The same with every ``step``-th pair, in the order of the keys, from the first one on."""
        keys = sorted({pair.key for pair in self.pairs})[::step]
        chosen = set(keys)
        return replace(self, pairs=tuple(pair for pair in self.pairs if pair.key in chosen))


@dataclass(frozen=True)
class _Sides:
    """Two modalities and the lower-case names of their folders, the preferred ones first."""

    first: str
    second: str
    first_names: tuple[str, ...]
    second_names: tuple[str, ...]
    harvard: Family | None = None


SIDE_NAMES: Final = (
    _Sides(
        "infrared",
        "visible",
        ("ir", "infrared", "inf", "thermal", "lwir", "cropinfrared"),
        ("vi", "vis", "visible", "visual", "rgb", "crop_lr_visible", "dhv"),
    ),
    _Sides("CT", "MRI", ("ct",), ("mri", "mr"), Family.HARVARD_CT),
    _Sides("PET", "MRI", ("pet",), ("mri", "mr"), Family.HARVARD_PET),
    _Sides("SPECT", "MRI", ("spect",), ("mri", "mr"), Family.HARVARD_SPECT),
)
_INFRARED_VISIBLE: Final = SIDE_NAMES[0]
_ALL_NAMES: Final = frozenset(name for sides in SIDE_NAMES for name in (*sides.first_names, *sides.second_names))

_OPTIONAL: Final = re.compile(r"(?:.*[^a-z0-9])?(?:train|val|trainval|detection)", re.IGNORECASE)
"""Names of splits that others train on, alone or behind the name of a collection."""
_FAMILY_WORDS: Final[Mapping[Family, re.Pattern[str]]] = {
    Family.TNO: re.compile(r"(?<![a-z])tno(?![a-z])"),
    Family.ROADSCENE: re.compile(r"road[-_ ]?scene"),
    Family.MSRS: re.compile(r"(?<![a-z])msrs(?![a-z])"),
    Family.M3FD: re.compile(r"m3fd"),
}
_HARVARD_WORDS: Final = re.compile(r"(?:ct|pet|spect)[-_ ]mri|mri[-_ ](?:ct|pet|spect)|har?vard|aanlib")
_ABOVE: Final = 3
"""Names at the end of the given folder's own path that may tell whose data it is, as in MSRS/test."""

# In the original TNO collection: IR_meting003_g beside VIS_meting003_r, Marne_01_IR beside Marne_01_Vis, and in its
# sequences 1800i and 1800v, RAD10 and DHV10. Near infrared (NIR) is neither.
_IR_NAME: Final = re.compile(r"(?:.*[_-])?(?:lw)?ir\d*(?:[_-].*)?", re.IGNORECASE)
_VIS_NAME: Final = re.compile(r"(?:.*[_-])?vis\d*(?:[_-].*)?", re.IGNORECASE)
_SIDE_MARK: Final = re.compile(r"^(?:rad|dhv|ir|vis)[_-]?(?=\d)|(?<=\d)[iv]$", re.IGNORECASE)


@dataclass(frozen=True)
class _Picture:
    """A picture of an archive: its folders below the root, its name without suffix, and where it lies."""

    folders: tuple[str, ...]
    stem: str
    uri: str


def find_data_sets(root: str) -> tuple[DataSet, ...]:
    """The data sets that a folder is or holds, by name.

    Raises:
        ConfigurationError: there is none; the message says what was looked for.
        StorageError: the folder cannot be read.
    """
    base = absolute(root)
    above = tuple(part for part in re.split(r"[/\\]", base) if part)[-_ABOVE:]
    pictures = [
        _Picture(tuple(folders), split_suffix(name)[0], file.uri)
        for file in list_files(root)
        for *folders, name in [file.relative.split("/")]
        if split_suffix(name)[1].lower() in RASTER_SUFFIXES
    ]
    found = [*_with_side_folders(base, above, pictures), *_tno_scenes(base, above, pictures)]
    if not found:
        names = "; ".join(
            f"{'/'.join(sides.first_names)} beside {'/'.join(sides.second_names)}" for sides in SIDE_NAMES
        )
        raise ConfigurationError(
            f"data: {root} is no data set and holds none ({len(pictures)} pictures below it); looked for folders named "
            f"{names}, in any case; see docs/evaluation.md for the layouts"
        )
    return tuple(sorted(_with_own_names(found, base), key=lambda one: one.name))


def choose_data_sets(found: Sequence[DataSet], names: Iterable[str]) -> tuple[DataSet, ...]:
    """Those that are named; without names all but the splits that others train on, unless there are only these.

    Raises:
        ConfigurationError: there is no data set of that name.
    """
    by_name = {one.name: one for one in found}
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in by_name:
            raise ConfigurationError(f"sets: there is no data set {name!r}; found are {', '.join(by_name)}")
    if wanted:
        return tuple(by_name[name] for name in wanted)
    return tuple(one for one in found if not one.optional) or tuple(found)


def _with_side_folders(base: str, above: Sequence[str], pictures: Iterable[_Picture]) -> list[DataSet]:
    """Each folder that has two folders of two modalities."""
    sides_of: defaultdict[tuple[str, ...], defaultdict[str, list[_Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in pictures:
        places = [place for place, name in enumerate(picture.folders) if name.lower() in _ALL_NAMES]
        if places:
            parent, side = picture.folders[: places[-1]], picture.folders[places[-1]].lower()
            sides_of[parent][side].append(replace(picture, folders=picture.folders[places[-1] + 1 :]))
    found = []
    for parent, by_side in sides_of.items():
        for sides in SIDE_NAMES:
            first = next((by_side[name] for name in sides.first_names if name in by_side), None)
            second = next((by_side[name] for name in sides.second_names if name in by_side), None)
            if first is None or second is None:
                continue
            family, below = _family((*above, *parent), sides)
            marks = _SIDE_MARK if family == Family.TNO else None
            found.append(
                DataSet(
                    name=_name(family, below, base, parent),
                    folder="/".join((base, *parent)),
                    family=family,
                    modality_first=sides.first,
                    modality_second=sides.second,
                    pairs=_pair(first, second, marks),
                    optional=any(_OPTIONAL.fullmatch(name) for name in (*above[-1:], *parent)),
                )
            )
    return found


def _tno_scenes(base: str, above: Sequence[str], pictures: Iterable[_Picture]) -> list[DataSet]:
    """The single scenes of the original TNO collection as a data set; its sequences have folders for their sides."""
    in_folder: defaultdict[tuple[str, ...], list[_Picture]] = defaultdict(list)
    for picture in pictures:
        if not any(name.lower() in _ALL_NAMES for name in picture.folders):
            in_folder[picture.folders].append(picture)
    scenes: defaultdict[int, list[SetPair]] = defaultdict(list)
    for folders, members in in_folder.items():
        family, below = _family((*above, *folders), _INFRARED_VISIBLE)
        infrared = [one.uri for one in members if _IR_NAME.fullmatch(one.stem)]
        visible = [one.uri for one in members if _VIS_NAME.fullmatch(one.stem)]
        if family == Family.TNO and len(infrared) == len(visible) == 1 and folders:
            root = max(len(folders) - len(below), 0)
            scenes[root].append(SetPair("/".join(folders[root:]) or folders[-1], infrared[0], visible[0]))
    return [
        DataSet("tno_scenes", base, Family.TNO, "infrared", "visible", tuple(sorted(pairs, key=lambda pair: pair.key)))
        for pairs in scenes.values()
    ]


def _family(path: Sequence[str], sides: _Sides) -> tuple[Family | None, tuple[str, ...]]:
    """Whose data a folder holds, and the folders below the one that says so; the deepest name counts."""
    for place in range(len(path) - 1, -1, -1):
        name = path[place].lower()
        if sides.harvard is not None:
            if _HARVARD_WORDS.search(name):
                return sides.harvard, tuple(path[place + 1 :])
            continue
        for family, words in _FAMILY_WORDS.items():
            if words.search(name):
                return family, tuple(path[place + 1 :])
    return None, ()


def _name(family: Family | None, below: Sequence[str], base: str, parent: Sequence[str]) -> str:
    if family is None:
        return _slug("_".join(parent) or base.rpartition("/")[2]) or "data"
    stem = family.lower().replace(" ", "_").replace("-", "_")
    return _slug("_".join((stem, *below)))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _with_own_names(found: Sequence[DataSet], base: str) -> list[DataSet]:
    """Data sets that would share a name are told apart by their folders."""
    counts = Counter(one.name for one in found)
    named = [
        replace(one, name=_slug(f"{one.name}_{one.folder.removeprefix(base)}")) if counts[one.name] > 1 else one
        for one in found
    ]
    twice = [name for name, count in Counter(one.name for one in named).items() if count > 1]
    if twice:
        folders = ", ".join(one.folder for one in named if one.name in twice)
        raise ConfigurationError(
            f"data: these data sets have one name ({', '.join(twice)}): {folders}; give one folder"
        )
    return named


def _pair(first: Sequence[_Picture], second: Sequence[_Picture], marks: re.Pattern[str] | None) -> tuple[SetPair, ...]:
    """Pictures of two sides by their path without suffix, and where ``marks`` are given, without the side's mark."""
    left, right = _by_key(first, marks), _by_key(second, marks)
    pairs = []
    for key in sorted(left.keys() | right.keys()):
        one, other = left.get(key, [None]), right.get(key, [None])
        pairs += [
            SetPair(key, one[min(n, len(one) - 1)], other[min(n, len(other) - 1)])
            for n in range(max(len(one), len(other)))
        ]
    return tuple(pairs)


def _by_key(pictures: Iterable[_Picture], marks: re.Pattern[str] | None) -> dict[str, list[str | None]]:
    found: dict[str, list[str | None]] = {}
    for picture in pictures:
        stem = marks.sub("", picture.stem) if marks else picture.stem
        found.setdefault("/".join((*picture.folders, stem)), []).append(picture.uri)
    return found
