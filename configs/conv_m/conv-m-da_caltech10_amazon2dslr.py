# Office-Caltech-10, amazon to dslr.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='amazon'), target=dict(domain='dslr')))
val_dataloader = dict(dataset=dict(domain='dslr'))
test_dataloader = dict(dataset=dict(domain='dslr'))
