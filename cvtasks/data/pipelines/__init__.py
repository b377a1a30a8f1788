"""From a reader's Sample to the one that is batched. Each file in conf/pipeline names a function here.

Each is `(*, train, flip_index, <parameters>) -> Callable[[Sample], Sample]`; `flip_index` comes from the data
set's classes. In evaluation only the resize happens. Random numbers come from torch's global generator,
which the loader seeds for each image. Images stay uint8, and nothing is padded here: a pipeline of constant
shape notes `pad_to` (height, width) in the Sample, and `collate` pads right and below.

Behind its resize every pipeline but `person_crop` drops objects whose box has a side below `min_box` pixels. All have
the same augmentation: `flip` and `vertical_flip` (probabilities), `rotate90` (probability of one, two or three quarter
turns; 0.75 makes all four directions equally likely), `color` (brightness, contrast and saturation by factors
from 1 - color to 1 + color), `hue` (colours turned by -hue to hue of the circle).
"""

from cvtasks.data.pipelines.classification import pad_crop, random_resized_crop
from cvtasks.data.pipelines.person import person_crop
from cvtasks.data.pipelines.resizing import fixed, shortest_edge
from cvtasks.data.pipelines.scale_crops import scale_crop, scale_jitter
from cvtasks.data.pipelines.single_stage import edge_jitter, ssd

__all__ = [
    "edge_jitter",
    "fixed",
    "pad_crop",
    "person_crop",
    "random_resized_crop",
    "scale_crop",
    "scale_jitter",
    "shortest_edge",
    "ssd",
]
