"""Parts of a record: measured, not asked for, or asked for and not to be had."""

from ..record import measured, why_unavailable

__all__ = ["measured", "why_unavailable"]
