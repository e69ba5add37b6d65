"""Files on any fsspec URL: list them, read with retries, write so that no reader ever sees half a file.

A place is a plain path or ``protocol://path``; ``file``, ``memory`` and ``s3`` are what this program is tested with.
Names are taken literally: nothing is percent-decoded, expanded as a pattern, or chained at ``::``, all of which
are legal in a file's name.
"""

from tasks.storage.conditional import create_exclusive, read_versioned, replace_if_unchanged
from tasks.storage.errors import StorageError, may_pass
from tasks.storage.files import exists, read_bytes, read_needed, read_start, remove, write_atomic
from tasks.storage.listing import DANGLING, OWN_FOLDER, StoredFile, list_files, list_names, stat_file
from tasks.storage.paths import absolute, join, local_path
from tasks.storage.places import PlaceOptions, PlaceWithKeys, configure_places
from tasks.storage.read_budget import ReadBudget
from tasks.storage.retries import retries_made
from tasks.storage.temporaries import sweep_temporaries
from tasks.storage.transfer import fetch_file, fetch_into, write_file

__all__ = [
    "DANGLING",
    "OWN_FOLDER",
    "PlaceOptions",
    "PlaceWithKeys",
    "ReadBudget",
    "StorageError",
    "StoredFile",
    "absolute",
    "configure_places",
    "create_exclusive",
    "exists",
    "fetch_file",
    "fetch_into",
    "join",
    "list_files",
    "list_names",
    "local_path",
    "may_pass",
    "read_bytes",
    "read_needed",
    "read_start",
    "read_versioned",
    "remove",
    "replace_if_unchanged",
    "retries_made",
    "stat_file",
    "sweep_temporaries",
    "write_atomic",
    "write_file",
]
