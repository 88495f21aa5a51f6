# Digit scenes of 160 pixels for two teacher-student pairs, views as in the small ones. A step takes
# 4 labelled images for each student and 4 unlabelled ones.
_base_ = ['./digit_scenes_semi.py']

data_root = 'data/large_digit_scenes/'
part = f'annotations/semi/instances_train.{_base_.fold}@5'
files = [f'{part}.json', f'{part}.json', f'{part}-unlabeled.json']
*labelled, unlabelled = [
    dict(dataset, data_root=data_root, ann_file=file)
    for dataset, file in zip(_base_.train_dataloader.dataset.datasets, files, strict=True)
]
for dataset in labelled:
    # Digits do not fill the corners of their boxes.
    dataset['pipeline'].insert(2, dict(type='mmext.ToEllipseBoxes'))
train_dataloader = dict(
    batch_size=12,
    sampler=dict(batch_size=12, source_ratio=[1, 1, 1]),
    dataset=dict(datasets=[*labelled, unlabelled]),
)
on_scenes = dict(dataset=dict(data_root=data_root))
val_dataloader = on_scenes
test_dataloader = on_scenes
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test.json')
