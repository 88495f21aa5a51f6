# Scenes of MNIST digits on photos of BSDS500, COCO format: mmext data mnist_scenes. Of
# 176 pixels; training cuts out 160, the teachers' view and evaluation shrink the whole to 160.
_base_ = ['./digit_scenes.py']

data_root = 'data/mnist_scenes/'
# 1 % of 4,000 are 40 labelled images, every class in at least 4 of them.
percent = 1
labelled_ann = f'annotations/semi/instances_train.{_base_.fold}@{percent}.json'
unlabelled_ann = f'annotations/semi/instances_train.{_base_.fold}@{percent}-unlabeled.json'

resize = dict(type='Resize', scale=(160, 160), keep_ratio=True)
cut = dict(type='RandomCrop', crop_size=(160, 160), allow_negative_crop=True)
weak = [resize, _base_.pack]
strong = [cut, *_base_.strong[1:]]
augment_labelled = [
    *_base_.augment_labelled[:2],
    cut,
    *_base_.augment_labelled[3:-1],
    dict(type='FilterAnnotations', min_gt_bbox_wh=(8, 8), keep_empty=False),
]
labelled_dataset = dict(
    _base_.labelled_dataset,
    data_root=data_root,
    ann_file=labelled_ann,
    pipeline=[*augment_labelled, _base_.pack],
)
train_dataloader = dict(
    batch_size=8, sampler=dict(batch_size=8), dataset=dict(datasets=[labelled_dataset])
)
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
on_scenes = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
val_dataloader = on_scenes
test_dataloader = on_scenes
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test.json')
