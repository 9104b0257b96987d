"""Where recipes look for data sets: folders below $CROWDDIST_DATA, named as their converters are."""

from __future__ import annotations

QNRF = ("ucf_qnrf:$CROWDDIST_DATA/ucf_qnrf:all", "ucf_qnrf:$CROWDDIST_DATA/ucf_qnrf:test")
"""UCF-QNRF as target and evaluation."""
WORLDEXPO = ("worldexpo10:$CROWDDIST_DATA/worldexpo10:all", "worldexpo10:$CROWDDIST_DATA/worldexpo10:test")
"""WorldExpo'10 as target and evaluation: no scene is in both (P)."""
UCF_CC_50 = ("ucf_cc_50:$CROWDDIST_DATA/ucf_cc_50:fold-1-train", "ucf_cc_50:$CROWDDIST_DATA/ucf_cc_50:fold-1-test")
"""The first fold of UCF_CC_50 as target and evaluation; `recipes.folds` has the others."""
GCC = "gcc:$CROWDDIST_DATA/gcc"


def shanghaitech(part: str, split: str) -> str:
    """A split of ShanghaiTech's part A or B; `all` is all of the training data, as in the papers."""
    return f"shanghaitech:$CROWDDIST_DATA/shanghaitech/part_{part}_final:{split}"
CROWD_HUMAN = "crowd_human:$CROWDDIST_DATA/crowd_human:train"
