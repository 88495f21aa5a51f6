# Office-Caltech-10, amazon to caltech.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='amazon'), target=dict(domain='caltech')))
val_dataloader = dict(dataset=dict(domain='caltech'))
test_dataloader = dict(dataset=dict(domain='caltech'))
