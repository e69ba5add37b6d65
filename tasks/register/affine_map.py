"""Affine maps from the fixed source's millimetres to the moving one's, and the numbers that an optimiser turns."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from tasks.register.grid import LPS, ItkTransform


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x -> matrix x + offset, from points of the fixed source to those of the moving one, both in RAS+ mm.

    Attributes:
        matrix: float64 [3, 3].
        offset: float64 [3].
    """

    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def identity(cls) -> AffineMap:
        """What the headers say."""
        return cls(np.eye(3, dtype=np.float64), np.zeros(3, np.float64))

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """The images [n, 3] of points [n, 3]."""
        return np.asarray(points @ self.matrix.T + self.offset)

    def inverse(self) -> AffineMap:
        """From the moving source to the fixed one."""
        matrix = np.asarray(np.linalg.inv(self.matrix), np.float64)
        return AffineMap(matrix, -matrix @ self.offset)

    def after(self, first: AffineMap) -> AffineMap:
        """``first``, then this map."""
        return AffineMap(self.matrix @ first.matrix, self.matrix @ first.offset + self.offset)

    @property
    def rotation(self) -> NDArray[np.float64]:
        """The rotation [3, 3] nearest to the matrix."""
        left, _, right = np.linalg.svd(self.matrix)
        return np.asarray(left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right)

    @property
    def rotation_degrees(self) -> float:
        """The angle of that rotation, 0 to 180."""
        return math.degrees(math.acos(min(1.0, max(-1.0, (float(np.trace(self.rotation)) - 1) / 2))))

    @property
    def stretches(self) -> NDArray[np.float64]:
        """The three factors by which lengths change, largest first; 1 for a rigid map."""
        return np.asarray(np.linalg.svd(self.matrix)[1])

    def to_itk(self, *, rigid: bool) -> ItkTransform:
        """The transform in ITK's LPS+: Euler angles with a translation if ``rigid``, a matrix otherwise."""
        transform: ItkTransform = sitk.Euler3DTransform() if rigid else sitk.AffineTransform(3)
        matrix = self.rotation if rigid else self.matrix
        transform.SetMatrix((LPS[:3, :3] @ matrix @ LPS[:3, :3]).ravel().tolist())
        transform.SetTranslation((LPS[:3, :3] @ self.offset).tolist())
        return transform


@dataclass(frozen=True, eq=False)
class Box:
    """A box along the RAS+ axes about what there is to align: where points are taken and distances measured.

    Attributes:
        low, high: its corners in mm, float64 [3].
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def centre(self) -> NDArray[np.float64]:
        """Its middle in mm, [3]; rotations turn about it."""
        return (self.low + self.high) / 2

    @property
    def radius(self) -> float:
        """Millimetres from the middle to a side, on the average of the three."""
        return float(np.mean(self.high - self.low)) / 2

    @property
    def corners(self) -> NDArray[np.float64]:
        """Millimetres [8, 3]."""
        return np.array(list(itertools.product(*zip(self.low, self.high, strict=True))))

    def distance(self, first: AffineMap, second: AffineMap) -> float:
        """Millimetres between what two maps make of the corners, on the average."""
        return float(np.linalg.norm(first(self.corners) - second(self.corners), axis=1).mean())

    def map_of(self, parameters: NDArray[np.float64]) -> AffineMap:
        """The map with 6 parameters (rigid) or 12 (affine), each in mm of motion at the box's sides.

        Three of translation, three of the rotation vector times the radius, and six of a symmetric stretch (xx, yy,
        zz, xy, xz, yz) times the radius.
        """
        matrix = rotation_matrix(parameters[3:6] / self.radius)
        if len(parameters) > 6:
            xx, yy, zz, xy, xz, yz = parameters[6:] / self.radius
            matrix = matrix @ (np.eye(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
        return AffineMap(matrix, self.centre + parameters[:3] - matrix @ self.centre)

    def parameters_of(self, rigid: AffineMap) -> NDArray[np.float64]:
        """The 6 parameters of a rigid map that turns by less than 180 degrees."""
        translation = rigid(self.centre[None])[0] - self.centre
        return np.concatenate([translation, rotation_vector(rigid.rotation) * self.radius])


def rotation_matrix(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation [3, 3] about ``vector`` by its length in radians (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross)


def rotation_vector(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The vector whose :func:`rotation_matrix` a rotation by less than 180 degrees is."""
    skew = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]) / 2
    sine = float(np.linalg.norm(skew))
    if sine < 1e-12:
        return np.zeros(3)
    return np.asarray(skew / sine * math.atan2(sine, (float(np.trace(matrix)) - 1) / 2))
