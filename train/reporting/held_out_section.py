"""The report's part on a drive: which seconds were held out, and what before and after look like on them."""

from __future__ import annotations

from cpsl_deploy.classes import ClassSpace

from .held_out import CLIP, HeldOut
from .markdown import escaped, percent, table

_WAS_THERE, _LOST = 0.005, 0.1
"""A class is reported lost if it had this share of the pixels and keeps less than this part of it."""


def on_held_out_seconds(found: HeldOut, classes: ClassSpace) -> list[str]:
    """Markdown paragraphs and the table per class."""
    before, after = found.titles
    spacing = f"{1 / found.fps:.2g} s"
    seconds = found.frames / found.fps
    header = ["class", "area before", "area after", "flicker before", "flicker after"]
    rows = [
        [
            escaped(name),
            *(f"{percent(column[k])}" for column in found.area),
            *(percent(column[k]) for column in found.flicker),
        ]
        for k, name in enumerate(classes.names)
    ]
    lost = [
        escaped(name)
        for name, old, new in zip(classes.names, *found.area, strict=True)
        if old >= _WAS_THERE and new < _LOST * old
    ]
    rows.append(["**all**", "100.0", "100.0", *(percent(value) for value in found.flicker_of_all)])
    return [
        "## On held-out seconds of the drive",
        f"{escaped(found.seconds)}: kept out of training, and so were the {found.guard_s:.1f} s on either "
        f"side. **[The clip]({CLIP})** shows {seconds:.1f} s of them, left {escaped(before)}, right "
        f"{escaped(after)}; the figures are of its {found.frames} frames, in percent of pixels.",
        table(header, rows),
        _changes(found),
        *(
            [f"**Nearly gone after the adaptation: {', '.join(lost)}.** Look for them in the clip."]
            if lost
            else []
        ),
        "These are no scores: without labels nobody knows which of two label maps is right. **Area** shows a "
        "class that is lost or invented. **Flicker** is the share of a class's pixels that are called "
        f"something else in the next frame, {spacing} later, after following the movement by optical flow; "
        "pixels that were hidden are left out, and n/a is a class with hardly any. Borders always flicker, "
        "so thin classes do most. Less is steadier, not truer: a network that calls everything road never "
        "flickers. Confidences are not given, because self-training raises them, whether the labels "
        "are right or not.",
    ]


def _changes(found: HeldOut) -> str:
    named = ", ".join(f"{escaped(a)} → {escaped(b)} {percent(share)} %" for a, b, share in found.changes)
    most = f", most of all {named}" if named else ""
    return f"{percent(found.changed)} % of the pixels have another label after than before{most}."
