# Office-Caltech-10, dslr to caltech.
_base_ = './_base_/office_caltech.py'

train_dataloader = dict(dataset=dict(source=dict(domain='dslr'), target=dict(domain='caltech')))
val_dataloader = dict(dataset=dict(domain='caltech'))
test_dataloader = dict(dataset=dict(domain='caltech'))
