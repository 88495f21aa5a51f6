# CIFAR-10 (JPEG copies), not the official pixels, kept in memory and split as cifar10.py:
# `mmext data cifar10_jpeg --from FOLDER` prepares data/cifar10_jpeg.
_base_ = 'cifar10.py'

# JPEG files are read as BGR.
data_preprocessor = dict(to_rgb=True)
data = dict(_delete_=True, type='CustomDataset', data_root='data/cifar10_jpeg')
train_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train = dict(data_prefix='train', **data)
test = dict(data_prefix='test', **data)
train_dataloader = dict(dataset=dict(dataset=train, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(dataset=train, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(dataset=test, pipeline=test_pipeline))
