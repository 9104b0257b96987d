"""The one check of points and boxes, of every format: a few bad ones are dropped, many stop with the likely cause."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crowddist.data.convert.doubts import Doubt
from crowddist.errors import InputError

# ours: the public sets hold single points beyond an image (UCF_CC_50 two in 63,974); a wrong size or axis moves many.
MOST_BAD_SHARE = 0.01
_FROM_HEADS = 100
# ours: a share of fewer heads says little: three, or one in ten.
_MOST_BAD_OF_FEW, _MOST_BAD_SHARE_OF_FEW = 3, 0.1
# ours: of the points of an image, that lie in its first pixel.
_MOST_IN_FIRST = 0.9
_SWAPPED = "with x and y swapped they fit: swap the two columns of the labels"


def check_points(points: np.ndarray, size: tuple[int, int], place: Path | str, rotation: int = 1,
                 turned: bool = False) -> tuple[np.ndarray, list[Doubt]]:
    """Points as shards hold them: N x 2 float32 inside the frame, and what was doubtful.

    Points of numbers that are not finite, or a pixel or more outside the frame, are dropped; those less than a pixel
    outside are moved to the border. Exact repeats are counted and kept: published counts include them (ShanghaiTech's
    training splits hold 101), and two heads may share a pixel.

    Args:
        points: N x 2 x, y in px; a third column is dropped and told.
        size: (height, width) of the image, px.
        place: the file, or a place in it, for messages.
        rotation: the image's rotation tag, 1 to 8; 1 is none.
        turned: the image was turned as the tag says; `size` is that of the turned image.

    Raises:
        InputError: naming the likely cause, where more than `MOST_BAD_SHARE` of 100 points or more are bad, of fewer
            more than three and a tenth; or where all points, two or more, lie in the first pixel.
    """
    points = np.asarray(points, dtype=np.float64)
    doubts = [Doubt("num_extra_columns", 1, "its points have a third column")] if points.shape[1:] == (3,) else []
    points = points[:, :2] if doubts else points.reshape(-1, 2)
    height, width = size
    frame = f"the image of {width} x {height} px"
    finite = np.isfinite(points).all(axis=1)
    inside = _inside(points, size)
    problems = (("num_invalid_points", ~finite, "not a pair of numbers"),
                ("num_outside_points", finite & ~inside, f"outside {frame}"))
    hint = _hint(points[finite], size, rotation, turned) if (finite & ~inside).any() else ""
    doubts += _dropped(problems, points, "point", "x, y", place, hint, hint or _guess(points[finite], rotation))
    if hint == _SWAPPED:
        doubts.append(Doubt("num_swapped_images", 1))
    kept = points[inside]
    # Centres of boxes are told from the middle of the first pixel; a slip may lie beyond.
    first = ((kept >= -0.5) & (kept <= 1)).all(axis=1)
    if len(kept) and first.sum() >= _MOST_IN_FIRST * len(kept) and (kept[first] % 1 > 0).any():
        likely = "shares of its width and height: multiply them by these"
        if len(kept) > 1:
            raise InputError(f"{place}: {'all ' if first.all() else f'{first.sum()} of '}{len(kept)} points lie within "
                             f"the first pixel of {frame}; they look like {likely}")
        doubts.append(Doubt("num_corner_points", 1, f"its only point lies within the first pixel of {frame}, as would "
                            f"{likely}"))
    stored = kept.astype(np.float32)
    beyond = (stored < 0) | (stored >= [width, height])
    stored = np.where(beyond, np.clip(stored, 0, [width - 1, height - 1]), stored).astype(np.float32)
    if num_clipped := int(beyond.any(axis=1).sum()):
        doubts.append(Doubt("num_clipped_points", num_clipped, f"less than a pixel outside {frame}"))
    if num_repeated := len(kept) - len(np.unique(kept, axis=0)):
        doubts.append(Doubt("num_repeated_points", num_repeated, "equal to another point"))
    return stored, doubts


def check_boxes(boxes: np.ndarray, size: tuple[int, int], place: Path | str,
                left_out: np.ndarray | None = None) -> tuple[np.ndarray, list[Doubt]]:
    """Boxes as shards hold them: M x 4 float32 inside the frame, in their order, and what was doubtful.

    Boxes centred in the frame are cut at its border. Those centred outside, of numbers that are not finite or without
    an area are dropped.

    Args:
        boxes: N x 4 left, top, width, height, as edges in px: pixel j covers [j, j + 1).
        size: (height, width) of the image, px.
        place: the file, or a place in it, for messages.
        left_out: (N,) bool, boxes that are neither checked nor kept; None keeps all.

    Raises:
        InputError: where many are bad, as `check_points` counts them.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    wanted = np.ones(len(boxes), bool) if left_out is None else ~left_out
    height, width = size
    with np.errstate(invalid="ignore", over="ignore"):
        near, far = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        sound = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:].astype(np.float32) > 0).all(axis=1)
    outside = sound & centred_outside(boxes, size)
    problems = (("num_invalid_boxes", wanted & ~sound, "not four finite numbers with an area"),
                ("num_outside_boxes", wanted & outside, f"centred outside the image of {width} x {height} px"))
    doubts = _dropped(problems, boxes, "box", "left, top, width, height", place, total=int(wanted.sum()))
    kept = wanted & sound & ~outside
    cut_near, cut_far = np.clip(near, 0, [width, height]), np.clip(far, 0, [width, height])
    cut = (cut_near != near) | (cut_far != far)
    # Only boxes that leave the frame are recomputed: the others stay as annotated to the last digit.
    stored = np.where(np.hstack([cut, cut]), np.hstack([cut_near, cut_far - cut_near]), boxes)[kept]
    num_cut, num_left_out = int(cut[kept].any(axis=1).sum()), int((~wanted).sum())
    return stored.astype(np.float32), [*doubts, Doubt("num_cut_boxes", num_cut),
                                       Doubt("num_left_out_boxes", num_left_out)]


def box_centres(boxes: np.ndarray) -> np.ndarray:
    """Centres N x 2 x, y (pixel j has its centre at j) of boxes N x 4 left, top, width, height, edges in px."""
    return boxes[:, :2] + boxes[:, 2:] / 2 - 0.5


def heads_of_rows(rows: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """N x 2 x, y of heads, and how many are centres of boxes.

    Args:
        rows: N x 2 x, y in px, or N x 4 with a width and height. These are those of the image, or 0 for none, where
            x, y is a head; else those of its box, whose upper left corner x, y is.
        size: (height, width) of the image, px, whichever way up.
    """
    if rows.shape[1] == 2:
        return rows, 0
    boxed = np.all([(rows[:, 2:] != known).any(axis=1) for known in ((0, 0), size, size[::-1])], axis=0)
    return np.where(boxed[:, None], box_centres(rows), rows[:, :2]), int(boxed.sum())


def centred_outside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,) bool, boxes of finite numbers with their centre outside the frame. Args: as for `check_boxes`."""
    with np.errstate(invalid="ignore", over="ignore"):
        centre = boxes[:, :2] + boxes[:, 2:] / 2
    return np.isfinite(boxes).all(axis=1) & ((centre < 0) | (centre >= size[::-1])).any(axis=1)


def _dropped(problems: Sequence[tuple[str, np.ndarray, str]], rows: np.ndarray, noun: str, columns: str,
             place: Path | str, hint: str = "", cause: str = "", total: int | None = None) -> list[Doubt]:
    """The rows that are dropped, as doubts. Raises InputError where they are many.

    Args:
        problems: kind, (N,) bool and words each; the last one: rows that lie outside.
        hint: what a few rows outside may come from, "" where nothing is known; `cause`: what many come from.
        total: number of rows that could be taken; None: all.
    """
    total = len(rows) if total is None else total
    doubts, told = [], []
    for kind, wrong, words in problems:
        if (found := np.flatnonzero(wrong)).size:
            first = f"{noun} {found[0] + 1} of {len(rows)}, {columns} = ({', '.join(f'{n:g}' for n in rows[found[0]])})"
            line = f"{first}{' and others' if found.size > 1 else ''}: {words}"
            few, many = (hint, cause) if kind == problems[-1][0] else ("", "")
            doubts.append(Doubt(kind, int(found.size), f"{line}{few and f'; {few}'}"))
            told.append((found.size, f"{line}{many and f'; {many}'}"))
    allowed = (MOST_BAD_SHARE * total if total >= _FROM_HEADS
               else max(_MOST_BAD_OF_FEW, _MOST_BAD_SHARE_OF_FEW * total))
    if (num_bad := sum(doubt.number for doubt in doubts)) > allowed:
        raise InputError(f"{place}: {num_bad} of {total} cannot be taken, too many for slips: {max(told)[1]}")
    return doubts


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N,) bool, points of finite numbers that lie less than a pixel outside the frame, or in it."""
    return np.all((points > -1) & (points < [size[1] + 1, size[0] + 1]), axis=1)


def _hint(points: np.ndarray, size: tuple[int, int], rotation: int, turned: bool) -> str:
    """What to do where the points fit the image turned the other way, or with their axes swapped; else ""."""
    num_outside = int((~_inside(points, size)).sum())

    def fits(tried: np.ndarray, frame: tuple[int, int]) -> bool:
        left = int((~_inside(tried, frame)).sum())
        return left <= num_outside // 10 and left <= MOST_BAD_SHARE * len(tried)

    if turned and rotation in (5, 6, 7, 8) and fits(points, size[::-1]):
        return (f"they fit the image as it is stored, without its rotation tag {rotation}: remove the tag from the "
                "image files (e.g. exiftool -Orientation= FILE), or mark heads on the images as they are shown")
    if not turned and rotation in (5, 6, 7, 8) and fits(points, size[::-1]):
        return (f"they fit the image turned upright, as its rotation tag {rotation} says: turn the image files upright "
                "(e.g. mogrify -auto-orient FILE) and convert again")
    if fits(points[:, ::-1], size):
        return _SWAPPED
    return ""


def _guess(points: np.ndarray, rotation: int) -> str:
    """What many points outside an image may come from where `_hint` knows nothing."""
    tag = f"; the image has the rotation tag {rotation}" if rotation != 1 else ""
    if len(points) and (points > -1).all():
        x, y = points.max(axis=0)
        return (f"the points reach to x, y = ({x:g}, {y:g}): the labels seem to be made on an image of another size; "
                f"give that image, or scale them{tag}")
    return f"the labels seem to belong to another image{tag}"
