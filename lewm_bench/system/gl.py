"""MuJoCo's own renderer without a display: which OpenGL works here, and one camera that looks at one model.

Nothing is set when this is imported, and ``MUJOCO_GL`` is the user's: an explicit value wins and is never changed.
"""

from __future__ import annotations

import atexit
import ctypes.util
import functools
import importlib
import logging
import os
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from lewm_bench.core.errors import NotRun, UserError, unknown
from lewm_bench.system.subprocesses import SECONDS, Fault, fault_of

if TYPE_CHECKING:
    import mujoco

logger = logging.getLogger(__name__)

BACKENDS = ("egl", "osmesa", "glfw")
"""In the order in which they are tried: a GPU or Mesa without a display, Mesa in software, a window system."""
OFF = ("disable", "disabled", "off", "false", "0")  # MuJoCo's own words for it
LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
PATIENCE = 120.0  # seconds; another backend may draw other pixels, so a busy machine must not choose it
INSTALL = "sudo apt-get install libegl1 libgl1-mesa-dri"
PROBE = """
import mujoco
scene = '<mujoco><worldbody><light pos="0 0 3"/><geom size="1"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(scene)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 8, 8) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the picture is black"
"""


@functools.cache
def backend() -> str:
    """``$MUJOCO_GL``, else the first of EGL, OSMesa and GLFW that draws on this machine.

    Raises:
        UserError: ``MUJOCO_GL`` has a value that is not a backend.
        NotRun: nothing draws here; says the command that installs it, or that this machine is too busy to tell.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen:
        if chosen in OFF:
            raise NotRun(f"MUJOCO_GL={chosen} turns MuJoCo's renderer off; unset it or set it to egl")
        if chosen not in (*BACKENDS, "wgl", "cgl"):
            raise UserError(f"MUJOCO_GL: {unknown('backend', chosen, BACKENDS)}; or unset it")
        return "glfw" if chosen == "wgl" else chosen
    if sys.platform != "linux":
        return "cgl" if sys.platform == "darwin" else "glfw"
    slow = []
    for name in BACKENDS:
        fault = probe(name, PATIENCE)
        if fault is None:
            return name
        if fault.slow:
            slow.append(name)
            logger.warning("MUJOCO_GL=%s: %s, so another one is tried; set MUJOCO_GL to choose", name, fault.reason)
    if slow:
        raise NotRun(
            f"OpenGL ({', '.join(slow)}) gave no answer in {PATIENCE:g} s: try again when this machine is less busy"
        )
    raise NotRun(f"MuJoCo finds no OpenGL to draw with: {INSTALL}")


def probe(name: str, seconds: float = SECONDS) -> Fault | None:
    """None if a backend draws here, else why not. Asks in a process of its own: a failed start cannot be undone."""
    if sys.platform == "linux":
        if name in LIBRARIES and ctypes.util.find_library(LIBRARIES[name]) is None:
            return Fault(f"lib{LIBRARIES[name]} is not installed")
        if name == "glfw" and not ({"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)):
            return Fault("there is no display")
    return fault_of(PROBE, {"MUJOCO_GL": name, "PYOPENGL_PLATFORM": ""}, seconds)


@contextmanager
def chosen_backend() -> Iterator[None]:
    """``MUJOCO_GL`` names the backend inside this context, for libraries that open OpenGL by themselves."""
    before = os.environ.get("MUJOCO_GL")
    os.environ["MUJOCO_GL"] = backend()  # theirs want it exactly so, not "EGL" or ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = before


class Camera:
    """One fixed or free view of one model, ``image_size`` pixels square. OpenGL is opened at the first frame.

    ``view`` and ``option`` (which groups are drawn) may be changed by the owner before the first frame.
    """

    def __init__(self, model: mujoco.MjModel, image_size: int, camera: str | int | None = None) -> None:
        import mujoco

        self._model, self.image_size = model, image_size
        model.vis.global_.offwidth, model.vis.global_.offheight = image_size, image_size
        self.view, self.option = mujoco.MjvCamera(), mujoco.MjvOption()
        if camera is None:
            mujoco.mjv_defaultFreeCamera(model, self.view)
        else:
            number = model.camera(camera).id
            self.view.type, self.view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, number
        self.scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 200)
        self._open: tuple[Any, mujoco.MjrContext] | None = None

    def __getstate__(self) -> None:
        raise TypeError("an OpenGL camera belongs to its process; make another one")

    def frame(self, data: mujoco.MjData) -> np.ndarray:
        """(size, size, 3) uint8 of ``data``, whose positions are up to date (``mj_forward``, ``mj_kinematics``)."""
        import mujoco

        if self._open is None:
            self._open = _open_gl(self._model, self.image_size)
            # Called when this object goes, or at exit, but then before MuJoCo shuts OpenGL down.
            self.close = weakref.finalize(self, _free_gl, *self._open)
            atexit.register(self.close)
        context, buffers = self._open
        context.make_current()
        area, out = (
            mujoco.MjrRect(0, 0, self.image_size, self.image_size),
            np.empty((self.image_size, self.image_size, 3), np.uint8),
        )
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self.option, None, self.view, everything, self.scene)
        mujoco.mjr_render(area, self.scene, buffers)
        mujoco.mjr_readPixels(out, None, area, buffers)
        return out[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Free the buffers; there are none before the first frame."""


def _open_gl(model: mujoco.MjModel, image_size: int) -> tuple[Any, mujoco.MjrContext]:
    import mujoco

    name = backend()
    with warnings.catch_warnings():
        expected = "DISPLAY environment variable is missing|GLFW library is not init"
        warnings.filterwarnings("ignore", message=f".*({expected})")
        try:
            # Not mujoco.GLContext, which has read MUJOCO_GL when MuJoCo was imported.
            context = importlib.import_module(f"mujoco.{name}").GLContext(image_size, image_size)
            context.make_current()
            buffers = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        except (mujoco.FatalError, RuntimeError, AttributeError, ImportError) as error:  # depends on what is missing
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise NotRun(f"MuJoCo cannot draw with {name} ({reason}); unset MUJOCO_GL, or {INSTALL}") from error
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, buffers)
    return context, buffers


def _free_gl(context: Any, buffers: mujoco.MjrContext) -> None:
    # mujoco.Renderer frees its buffers in whichever context is current, which destroys those of another environment.
    context.make_current()
    buffers.free()
    context.free()
