# Office-31, webcam to dslr.
_base_ = './_base_/office.py'

train_dataloader = dict(dataset=dict(source=dict(domain='webcam'), target=dict(domain='dslr')))
val_dataloader = dict(dataset=dict(domain='dslr'))
test_dataloader = dict(dataset=dict(domain='dslr'))
