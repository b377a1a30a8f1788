"""The nouns that every room shares: what a checkpoint keeps of them."""

from __future__ import annotations

import io

import pytest
import torch

from cvtasks.types import ClassInfo

WHOLE = ClassInfo(
    names=("cat", "dog"),
    category_ids=(3, 7),
    keypoint_names=("left", "right"),
    flip_index=(1, 0),
    skeleton=((0, 1),),
    colors=((1, 2, 3), (4, 5, 6)),
)


@pytest.mark.parametrize("info", [WHOLE, ClassInfo(("cat",))])
def test_classes_come_back_from_a_checkpoint_as_they_went_in(info: ClassInfo) -> None:
    buffer = io.BytesIO()
    torch.save(info.to_dict(), buffer)
    buffer.seek(0)
    back = ClassInfo.from_dict(torch.load(buffer, weights_only=True))
    assert back == info
    assert hash(back) == hash(info)  # tuples all the way down


def test_classes_of_a_checkpoint_before_there_were_colours_are_read() -> None:
    values = WHOLE.to_dict()
    del values["colors"]
    assert ClassInfo.from_dict(values).colors == ()


@pytest.mark.parametrize("colors", [((1, 2, 3),), ((1, 2, 3), (1, 2))])
def test_colours_that_are_not_one_for_each_class_are_refused(colors: tuple) -> None:
    with pytest.raises(TypeError, match="for each of 2 classes"):
        ClassInfo(("cat", "dog"), colors=colors)
