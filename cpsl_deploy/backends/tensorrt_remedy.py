"""How TensorRT is installed on this machine: by pip, and on a Jetson by JetPack alone."""

from __future__ import annotations

from ..errors import MissingExtraError, UnavailableError

_WITH_PIP = "Install it with: pip install {options}'cpsl_deploy[trt]'"
_WITH_JETPACK = (
    "On a Jetson TensorRT comes with JetPack, and the packages for servers do not run: sudo apt-get install "
    "{options}python3-libnvinfer, and make the virtual environment with --system-site-packages (docs/edge.md)"
)
_CUDA_ON_JETSON = "Install it with: pip install -r requirements/jetson.txt (docs/edge.md)"


def on_jetson() -> bool:
    """Whether this machine is a Jetson."""
    from ..machine.jetson import find_jetson

    return find_jetson() is not None


def install_remedy(*, update: bool = False, again: bool = False) -> str:
    """The command that installs TensorRT here, as a sentence without a full stop. ``update``: a newer one
    than there is; ``again``: with the libraries that are missing."""
    if on_jetson():
        if update:
            return "On a Jetson it comes with JetPack: update to JetPack 6.1 or later (docs/edge.md)"
        return _WITH_JETPACK.format(options="--reinstall " if again else "")
    return _WITH_PIP.format(options="-U " if update else "--force-reinstall " if again else "")


def driver_remedy() -> str:
    """What to do where TensorRT is there and cannot use the GPU, after a semicolon, without a full stop."""
    if on_jetson():
        return "use JetPack's own TensorRT, and check that this user is in the groups video and render"
    return (
        "the package tensorrt-cu13 needs 13.0 or later (driver 580). Update the driver, or install the "
        "TensorRT package for its CUDA version"
    )


def missing_package(package: str, purpose: str) -> UnavailableError:
    """The error for ``tensorrt``, or a part of cuda-bindings, that is not installed: MissingExtraError, and
    on a Jetson one that names what brings it there. ``purpose``: what needs it, as the sentence's subject."""
    if not on_jetson():
        return MissingExtraError(package, "trt", purpose)
    remedy = _CUDA_ON_JETSON if package.startswith("cuda") else install_remedy()
    return UnavailableError(f"{purpose} needs the package {package!r}, which is not installed. {remedy}")
