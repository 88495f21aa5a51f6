# Digit scenes of 160 pixels: mmext data large_digit_scenes. 5 % are 100 labelled images.
_base_ = ['./digit_scenes.py']

data_root = 'data/large_digit_scenes/'
percent = 5
labelled_ann = f'annotations/semi/instances_train.{_base_.fold}@{percent}.json'
unlabelled_ann = f'annotations/semi/instances_train.{_base_.fold}@{percent}-unlabeled.json'
# Digits do not fill the corners of their boxes.
load, annotations, *others = _base_.augment_labelled
labelled_dataset = dict(
    _base_.labelled_dataset,
    data_root=data_root,
    ann_file=labelled_ann,
    pipeline=[load, annotations, dict(type='mmext.ToEllipseBoxes'), *others, _base_.pack],
)
train_dataloader = dict(
    batch_size=8, sampler=dict(batch_size=8), dataset=dict(datasets=[labelled_dataset])
)
on_scenes = dict(dataset=dict(data_root=data_root))
val_dataloader = on_scenes
test_dataloader = on_scenes
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test.json')
