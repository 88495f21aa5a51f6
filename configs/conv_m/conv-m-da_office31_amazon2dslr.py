# Office-31, amazon to dslr.
_base_ = './_base_/office.py'

train_dataloader = dict(dataset=dict(source=dict(domain='amazon'), target=dict(domain='dslr')))
val_dataloader = dict(dataset=dict(domain='dslr'))
test_dataloader = dict(dataset=dict(domain='dslr'))
