"""Projective maps between the pixels of two pictures, and pictures under them.

A map is a float64 [3, 3] matrix from homogeneous pixel coordinates (x, y, 1) of the second picture, with centres of
pixels at whole numbers, to those of the first.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Size = tuple[int, int]
"""Height, width."""


def use_one_opencv_thread() -> None:
    """So that sums come in one order, whatever machine this is; the setting is the process's and stays."""
    cv2.setNumThreads(1)


def scaling(of: Size, to: Size) -> Matrix:
    """The map that lays the field of view of a picture of size ``of`` over that of one of size ``to``."""
    matrix = np.eye(3)
    for axis, (source, target) in enumerate(((of[1], to[1]), (of[0], to[0]))):
        matrix[axis, axis] = target / source
        matrix[axis, 2] = (target / source - 1) / 2
    return matrix


def apply(matrix: Matrix, points: Matrix) -> Matrix:
    """The images [n, 2] of points (x, y) [n, 2]."""
    lifted = points @ matrix[:, :2].T + matrix[:, 2]
    return np.asarray(lifted[:, :2] / lifted[:, 2:])


def inverse(matrix: Matrix) -> Matrix:
    """From the first picture to the second one."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def corners(size: Size) -> Matrix:
    """The centres of the corner pixels, (x, y) [4, 2]."""
    height, width = size
    return np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]], np.float64)


def distance(first: Matrix, second: Matrix, size: Size) -> float:
    """Pixels between what two maps make of the corners of a picture, on the average."""
    points = corners(size)
    return float(np.linalg.norm(apply(first, points) - apply(second, points), axis=1).mean())


def area_scale(matrix: Matrix, size: Size) -> float:
    """By how much the map stretches lengths in the middle of a picture: the root of the area of a pixel's image."""
    middle = np.array([[(size[1] - 1) / 2, (size[0] - 1) / 2]])
    steps = [apply(matrix, middle + step) - apply(matrix, middle - step) for step in (np.eye(2) / 2)]
    return math.sqrt(abs(float(np.linalg.det(np.concatenate(steps)))))


def warp(planes: NDArray[np.float32], matrix: Matrix, size: Size) -> NDArray[np.float32]:
    """Planes [C, H', W'] of the first picture on the grid [C, H, W] of the second; NaN where it does not reach.

    Bilinear; blurred beforehand where the second picture's pixels are larger. The half of a pixel beyond the centres
    at the border is the border's.
    """
    stretch = area_scale(matrix, size)
    sigma = 0.5 * math.sqrt(max(stretch**2 - 1, 0.0))
    warped = np.empty((len(planes), *size), np.float32)
    for plane, target in zip(planes, warped, strict=True):
        source: Any = np.ascontiguousarray(plane, np.float32)
        if sigma > 0.4:
            source = cv2.GaussianBlur(source, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        target[:] = cv2.warpPerspective(source, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    warped[:, ~reaches(matrix, (planes.shape[1], planes.shape[2]), size)] = np.nan
    return warped


def reaches(matrix: Matrix, first: Size, second: Size) -> NDArray[np.bool_]:
    """Bool [H, W], for each pixel of the second picture: whether its image lies on the first one."""
    rows, columns = np.arange(second[0])[:, None], np.arange(second[1])[None]
    depth = matrix[2, 0] * columns + matrix[2, 1] * rows + matrix[2, 2]
    inside: NDArray[np.bool_] = np.broadcast_to(depth > 0, second).copy()
    for axis, length in enumerate((first[1], first[0])):
        position = matrix[axis, 0] * columns + matrix[axis, 1] * rows + matrix[axis, 2]
        # Multiplied out, so that no depth divides by zero; a thousandth of a pixel for the rounding.
        inside &= (position >= -0.501 * depth) & (position <= (length - 0.499) * depth)
    return inside
