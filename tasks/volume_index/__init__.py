"""What an archive of medical volumes holds, and which of them make pairs: four ways to an index with its sources."""

from tasks.volume_index.archive import index_dicom_archive
from tasks.volume_index.bids import index_bids
from tasks.volume_index.folders import index_volume_folders
from tasks.volume_index.headers import HeaderIndex, index_headers
from tasks.volume_index.sources import SOURCES_SCHEMA, Kind, PairSources, VolumeIndex, sources_of
from tasks.volume_index.table import index_volume_table

__all__ = [
    "SOURCES_SCHEMA",
    "HeaderIndex",
    "Kind",
    "PairSources",
    "VolumeIndex",
    "index_bids",
    "index_dicom_archive",
    "index_headers",
    "index_volume_folders",
    "index_volume_table",
    "sources_of",
]
