# Scenes of Fashion-MNIST garments on photos of BSDS500, COCO format: mmext data
# fashion_scenes. Sizes and views as in the MNIST scenes, and garments may be mirrored. Without
# BSDS500: python tools/dataset_converters/make_scenes.py --like fashion_scenes --photos packages
_base_ = ['./mnist_scenes.py']

data_root = 'data/fashion_scenes/'
classes = (
    'T-shirt/top', 'Trouser', 'Pullover', 'Dress', 'Coat', 'Sandal', 'Shirt', 'Sneaker', 'Bag',
    'Ankle boot',
)  # fmt: skip
metainfo = dict(classes=classes)

flip = dict(type='RandomFlip', prob=0.5)
weak = [_base_.resize, flip, _base_.pack]
strong = [_base_.cut, flip, *_base_.strong[1:]]
augment_labelled = [*_base_.augment_labelled[:3], flip, *_base_.augment_labelled[3:]]
labelled_dataset = dict(
    _base_.labelled_dataset,
    data_root=data_root,
    metainfo=metainfo,
    pipeline=[*augment_labelled, _base_.pack],
)
train_dataloader = dict(dataset=dict(datasets=[labelled_dataset]))
on_scenes = dict(dataset=dict(data_root=data_root, metainfo=metainfo))
val_dataloader = on_scenes
test_dataloader = on_scenes
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations/instances_test.json')
