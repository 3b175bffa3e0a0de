"""OGBench's robot scenes as they are drawn in software: cheaper, and nearly the same picture."""

from __future__ import annotations

import copy

import mujoco
import numpy as np

from lewm_bench.system.gl import Camera

SUPERSAMPLING = 2
SHADOW_SIZE = 512  # texels of the shadow map's side, of OGBench's 4096
MERGED = 0.25  # metres per pixel of the frame: vertices of a mesh as close as this become one


class RobotView:
    """OGBench's scene as it is drawn, apart from the one that moves."""

    def __init__(self, model: mujoco.MjModel, image_size: int) -> None:
        self.model, self._size = copy.copy(model), image_size
        for mesh in range(model.nmesh):
            _merge_vertices(self.model, mesh, MERGED / image_size)
        self.model.vis.quality.shadowsize, self.model.vis.quality.offsamples = SHADOW_SIZE, 0
        self._data = mujoco.MjData(self.model)
        self.camera = Camera(self.model, SUPERSAMPLING * image_size, "front_pixels")

    def draw(self, qpos: np.ndarray) -> np.ndarray:
        """qpos to (size, size, 3) uint8."""
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self._data)  # all that a drawing needs of mj_forward
        mujoco.mj_camlight(self.model, self._data)
        size, samples = self._size, SUPERSAMPLING**2
        fine = self.camera.frame(self._data).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, 3)
        return ((fine.sum((1, 3), dtype=np.uint16) + samples // 2) // samples).astype(np.uint8)


def _merge_vertices(model: mujoco.MjModel, mesh: int, cell: float) -> None:
    """Draw all vertices of ``mesh`` in a cubic cell as one of them; triangles that collapse or coincide are left out.

    Corners keep their own normals, so the shading stays that of the fine mesh (Rossignac and Borrel, 1993).
    """
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    begin, count = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
    cells, cluster = np.unique(np.floor(vertices / cell), axis=0, return_inverse=True)
    cluster = cluster.ravel()  # some versions of numpy keep an axis
    centers = np.stack([np.bincount(cluster, axis) for axis in vertices.T], axis=1) / np.bincount(cluster)[:, None]
    order = np.lexsort((np.linalg.norm(vertices - centers[cluster], axis=1), cluster))
    nearest = order[np.searchsorted(cluster[order], np.arange(len(cells)))]  # to its cluster's centre
    faces = nearest[cluster[model.mesh_face[begin : begin + count]]]
    corners = np.sort(faces, axis=1)
    _, first = np.unique(corners, axis=0, return_index=True)
    whole = (corners[first, :-1] != corners[first, 1:]).all(1)
    kept = np.sort(first[whole])
    end = begin + len(kept)
    model.mesh_face[begin:end] = faces[kept]
    for table in (model.mesh_facenormal, model.mesh_facetexcoord):
        table[begin:end] = table[begin : begin + count][kept]
    model.mesh_facenum[mesh] = len(kept)
