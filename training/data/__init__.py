"""
Training data: whatever form it comes in, out comes one form, and a list of the rows that were no good.

`load_training_data` reads rows of every format of `formats.py` from local files, `datasets` objects and the Hub, at
once or streaming. Its rows have

- `prompt` and `completion`, if every chat is one question with one answer, or else `messages`;
- `images`: a list of images, decoded when they are read;
- `granularity_labels`: weights over the model's levels, coarse to fine, or null; only if some row has them;
- `granularity`: the level that the row is trained at, -1 for the controller's choice; only if some row has one.

```python
data = load_training_data("my-photos", on_bad_row="skip")  # my-photos/chat.json, my-photos/images/
print(data.bad_rows.report(), data.fingerprint)
trainer = GranulonSFTTrainer(model, args, train_dataset=data.dataset, processing_class=processor)
```

To add a format of rows, add a line to `formats.FORMATS`; to read another kind of file, one to `sources.FILES`.

```
sources.py   folders, files, `datasets` and the Hub -> rows
json_rows.py rows of JSON and JSONL files
formats.py   a row of each format                   -> turns
turns.py     turns                                  -> turns of texts and images, each image in its place
images.py    images of rows: found, checked, decoded
rows.py      a row, whatever it is                  -> a sample, or a bad row with its reason
writing.py   samples                                -> a data set
faults.py    bad rows: counted, reported, fatal
loading.py   all of these at once or streaming      -> `TrainingData`
joining.py   several sources as one, one source in two
```
"""

from .faults import BadRowError, BadRows
from .formats import FORMATS, IMAGE_TAG, SURGICAL_TASKS, Format
from .images import check_image
from .joining import combine, seeded_fraction, split_by_image
from .loading import TrainingData, load_training_data


__all__ = [
    "FORMATS",
    "IMAGE_TAG",
    "SURGICAL_TASKS",
    "BadRowError",
    "BadRows",
    "Format",
    "TrainingData",
    "check_image",
    "combine",
    "load_training_data",
    "seeded_fraction",
    "split_by_image",
]
