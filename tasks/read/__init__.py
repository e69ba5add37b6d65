"""Bytes to images and volumes, one file per kind of source."""
