"""Fused results to files: PNG pictures, NIfTI and DICOM volumes."""
